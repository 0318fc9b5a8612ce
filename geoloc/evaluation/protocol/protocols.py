"""The field's evaluation protocols, each with a name, a version and its definition in words.

A figure means something only beside its protocol: which items are right, which are ignored, what the gallery
is, how ties count and what "1 %" is. Traps and published figures: docs/protocols.md.
"""

from __future__ import annotations

import difflib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.errors import ConfigError
from geoloc.evaluation.ranking.metrics import TopPercent

Direction = Literal["photos to tiles", "tiles to photos"]
PHOTOS_TO_TILES: Direction = "photos to tiles"
TILES_TO_PHOTOS: Direction = "tiles to photos"
TruthRule = Literal["pairs", "pairs_or_radius", "radius", "place"]


class Protocol(BaseModel):
    """How one benchmark is scored; `name@version` changes whenever a figure would."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int = 1
    definition: str
    directions: tuple[Direction, ...] = (PHOTOS_TO_TILES,)
    truth: TruthRule = "pairs"
    radius_m: float | None = Field(default=None, gt=0, description="Within this a tile is right.")
    crs: str | None = Field(default=None, description="Metres of this system instead of geodesic ones.")
    hit_rate: bool = Field(default=False, description="Also with semi-positives taken out of the ranking.")
    precision: bool = Field(default=False, description="Also the mean trapezoidal average precision.")
    multi_query: bool = Field(default=False, description="Also with the photos of a place as one query.")
    components: int | None = Field(
        default=None, ge=1, description="Principal components of the gallery's embeddings to compare by."
    )
    routes: int | None = Field(
        default=None,
        ge=1,
        description="Random routes along the photos' streets to locate by their photos as well.",
    )
    ks: tuple[int, ...] = (1, 5, 10)
    top_percent: TopPercent = "int_plus_one"
    radii_m: tuple[float, ...] = (5.0, 10.0, 25.0, 50.0, 100.0)
    single_match: tuple[Direction, ...] = Field(
        default=(), description="Directions in which every query has one right answer: there AP >= R@1."
    )
    shared_area: bool = Field(default=False, description="Training and test share their tiles by design.")
    published_queries: int | None = None
    published_gallery: int | None = None

    @property
    def id(self) -> str:
        """Name and version, as results carry it."""
        return f"{self.name}@{self.version}"


_PAIRED = (
    "Each photo has exactly one right tile, its own; the gallery is the tiles of all photos of the split. "
    "Recall@K is the share of all photos whose tile is among the first K by cosine of the embeddings. "
)
_VIGOR = (
    "The gallery is every satellite picture of the split's cities, also those no photo belongs to. A photo's one "
    "right tile is its positive: its semi-positives count as wrong in Recall@K. The hit rate is Recall@1 with "
    "the photo's three semi-positives taken out of the ranking. Metres are from the centre of the best tile to "
    "the photo. 1 % is int(0.01 N) + 1."
)
_UNIVERSITY = (
    "A gallery item is right when it shows the query's building (place_id); items of place -1 are junk and are "
    "taken out, items without a place are distractors. Recall@K is the share of all queries with a right item "
    "among the first K; top 1 % is CMC at index round(0.01 N), that is K = round(0.01 N) + 1, N with junk. AP is "
    "trapezoidal and averaged over all queries, those without a right item counting 0. Scores are cosines. "
)

_ALL = (
    Protocol(
        name="tiles",
        definition="The right tiles are those of the pairs table, or without one those whose centre lies within "
        "truth_radius_m of the photo. Recall@K is the share of all photos with a right tile among the first K.",
        truth="pairs_or_radius",
    ),
    Protocol(
        name="within-metres",
        definition="Every tile whose centre lies within 25 m of the photo (geodesic) is right; Recall@K is the "
        "share of all photos with such a tile among the first K. Other radii stand beside it.",
        truth="radius",
        radius_m=25.0,
    ),
    Protocol(
        name="cvusa",
        definition=_PAIRED + "Both directions. 1 % is int(0.01 N) + 1 = 89 of 8,884.",
        directions=(PHOTOS_TO_TILES, TILES_TO_PHOTOS),
        single_match=(PHOTOS_TO_TILES, TILES_TO_PHOTOS),
        published_queries=8884,
        published_gallery=8884,
    ),
    Protocol(
        name="cvact-val",
        definition=_PAIRED + "Both directions. 1 % is int(0.01 N) + 1 = 89 of 8,884.",
        directions=(PHOTOS_TO_TILES, TILES_TO_PHOTOS),
        single_match=(PHOTOS_TO_TILES, TILES_TO_PHOTOS),
        published_queries=8884,
        published_gallery=8884,
    ),
    Protocol(
        name="cvact-test-exact",
        definition=_PAIRED
        + "This is the exact-pair rule of Sample4Geo and its followers; figures by the 5-metre "
        "rule (cvact-test-5m) are another thing. 1 % is N // 100.",
        top_percent="floor",
        single_match=(PHOTOS_TO_TILES,),
        published_queries=92802,
        published_gallery=92802,
    ),
    Protocol(
        name="cvact-test-5m",
        definition="A tile is right when it was taken within 5 m of the photo, measured in UTM zone 55S "
        "(EPSG:32755) as in OriCNN's RecallGeo; Recall@K is the share of all photos with such a tile among the "
        "first K. The gallery is the tiles of all photos of the test set. Figures by exact pairs "
        "(cvact-test-exact) are another thing. 1 % is int(0.01 N) + 1.",
        truth="radius",
        radius_m=5.0,
        crs="EPSG:32755",
        published_queries=92802,
        published_gallery=92802,
    ),
    Protocol(
        name="vigor-same-area",
        definition=_VIGOR
        + " Same area: four cities, photos split at random, the gallery shared with training.",
        hit_rate=True,
        shared_area=True,
        published_queries=52605,
        published_gallery=90618,
    ),
    Protocol(
        name="vigor-cross-area",
        definition=_VIGOR
        + " Cross area: trained on New York and Seattle, tested on Chicago and San Francisco.",
        hit_rate=True,
        published_queries=53694,
        published_gallery=46563,
    ),
    Protocol(
        name="university1652-drone-to-satellite",
        definition=_UNIVERSITY + "Queries are drone photos, the gallery satellite pictures, one a building.",
        truth="place",
        precision=True,
        multi_query=True,
        top_percent="round_plus_one",
        single_match=(PHOTOS_TO_TILES,),
        published_queries=37855,
        published_gallery=951,
    ),
    Protocol(
        name="university1652-satellite-to-drone",
        definition=_UNIVERSITY
        + "Queries are satellite pictures, one a building, the gallery drone photos, 54 a "
        "building.",
        directions=(TILES_TO_PHOTOS,),
        truth="place",
        precision=True,
        top_percent="round_plus_one",
        published_queries=701,
        published_gallery=51355,
    ),
    Protocol(
        name="university1652-ground-to-satellite",
        definition=_UNIVERSITY + "Queries are street photos, the gallery satellite pictures, one a building.",
        truth="place",
        precision=True,
        multi_query=True,
        top_percent="round_plus_one",
        single_match=(PHOTOS_TO_TILES,),
        published_queries=2579,
        published_gallery=951,
    ),
    Protocol(
        name="university1652-satellite-to-ground",
        definition=_UNIVERSITY + "Queries are satellite pictures, one a building, the gallery street photos.",
        directions=(TILES_TO_PHOTOS,),
        truth="place",
        precision=True,
        top_percent="round_plus_one",
        published_queries=701,
        published_gallery=2921,
    ),
    Protocol(
        name="map25d-single-image",
        definition="Each panorama has exactly one right map tile, its own. Embeddings are reduced to 128 principal "
        "components fitted on the map tiles of the test area and compared by Euclidean distance. Recall@K is the "
        "share of all panoramas whose tile is among the first K; top 1 % is recall at index max(round(N / 100), 1), "
        "that is K = 51 of 5,000.",
        components=128,
        top_percent="max_round_plus_one",
        single_match=(PHOTOS_TO_TILES,),
        published_queries=5000,
        published_gallery=5000,
    ),
    Protocol(
        name="map25d-route",
        definition="Single images as in map25d-single-image. Beside it 500 random routes of 40 panoramas that visit "
        "none twice, on the graph of neighbouring panoramas (links of up to 20 m without a third one between). A route "
        "is right at length m when the last five places (all where fewer) of its best candidate are right, in order. "
        "Observations are distances in the 128 components; with turns it is also known whether the heading changed by "
        "more than 30 degrees. The published enumeration keeps 50 % of its candidates at each step, or the best 5,000.",
        components=128,
        top_percent="max_round_plus_one",
        routes=500,
        single_match=(PHOTOS_TO_TILES,),
        published_queries=5000,
        published_gallery=5000,
    ),
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}
DEFAULT = "tiles"


def find_protocol(name: str) -> Protocol:
    """The protocol of a name, with or without `@version`; `ConfigError` for one that is not there."""
    bare, _, version = name.partition("@")
    found = PROTOCOLS.get(bare)
    if found is None:
        near = difflib.get_close_matches(bare, PROTOCOLS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? Known: " if near else "known: "
        raise ConfigError(f"There is no protocol {bare!r}; {hint}{', '.join(PROTOCOLS)}.")
    if version and version != str(found.version):
        raise ConfigError(
            f"This geoloc has {found.id}, not {name}; figures of other versions do not compare."
        )
    return found
