"""The stage `city ablations`: renders the city's test photos without trees, buildings, ... and locates them.

<output>/ablations.json   Recall@1 of each ablation, written last
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geoloc.core import storage
from geoloc.core.arrays import Pixels
from geoloc.core.errors import ArtifactError
from geoloc.core.fingerprint import begin_output, fingerprint_of
from geoloc.core.images import decode_image
from geoloc.core.progress import say, track
from geoloc.localization.localizer import Localizer
from geoloc.localization.query_photos import photo as as_photo
from geoloc.synthetic.stages.city import RENDERER_VERSION, CityConfig
from geoloc.synthetic.world.ablation import BASE, LEFT_OUT, blank, without
from geoloc.synthetic.world.camera import Camera, jpeg, jpeg_quality
from geoloc.synthetic.world.districts import District, Photo, plan_districts
from geoloc.synthetic.world.export import work_bounds
from geoloc.synthetic.world.georeference import convergence_deg
from geoloc.synthetic.world.panorama import render_panorama
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.style import style_named
from geoloc.synthetic.world.view_conditions import photo_look

RESULT_NAME = "ablations.json"
_CHUNKS = 40


class CityAblationConfig(BaseModel):
    """Number of photos and settings of the search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos: int = Field(1000, ge=1, description="Test photos of the city to render again.")
    rerank: int = Field(100, ge=0, description="Nearest codes to order by float embeddings.")


class CityAblationInputs(BaseModel):
    """The city and the index of its test tiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of an index with the city's test tiles, under their names.")
    city: str = Field(description="URI of the city of photos and tiles, from `geoloc city`.")


class Ablation(BaseModel):
    """Recall of the same photos without one kind of object, as a share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    left_out: str
    recall_at_1: float
    of_base: float


class CityAblationResult(BaseModel):
    """Recall@1 of the complete photos and of each ablation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    snapshot_id: str
    photos: int
    tiles: int
    seconds: float
    ablations: list[Ablation]

    def text(self) -> str:
        """A table for people."""
        lines = [f"{self.photos:,} test photos, {self.tiles:,} tiles   R@1   of the base"]
        lines += [f"without {a.left_out:<28} {a.recall_at_1:6.1%}   {a.of_base:6.1%}" for a in self.ablations]
        return "\n".join([*lines, f"{self.output}/{RESULT_NAME}"])


def run(
    config: CityAblationConfig, inputs: CityAblationInputs, output: str, *, overwrite: bool = False
) -> CityAblationResult:
    """Render the test photos without trees, buildings, ..., locate them, and write a table of recall.

    Raises `ArtifactError` when the city is unfinished or made by another renderer.
    """
    start, output = time.monotonic(), storage.absolute(output)
    city_config = _city_config(inputs.city)
    localizer = Localizer.open(inputs.index)
    fingerprint = fingerprint_of(
        [config.model_dump(), city_config.fingerprint(), localizer.snapshot_id, RENDERER_VERSION]
    )
    with begin_output(
        output, fingerprint, record=RESULT_NAME, what="ablations", overwrite=overwrite, shared=True
    ) as done:
        if done:
            return CityAblationResult.model_validate(json.loads(done)["result"]).model_copy(
                update={"reused": True}
            )
        result = _measure(config, city_config, localizer, output, start)
        record = {"fingerprint": fingerprint, "result": result.model_dump()}
        storage.write_bytes(storage.join(output, RESULT_NAME), json.dumps(record, indent=1).encode())
    say(result.text())
    return result


def _measure(
    config: CityAblationConfig, city_config: CityConfig, localizer: Localizer, output: str, start: float
) -> CityAblationResult:
    city = City(city_config.seed, style_named(city_config.style), chunks=_CHUNKS)
    district = plan_districts(city, city_config.districts())[2]
    photos = district.photos[: config.photos]
    hits = {what: 0 for what in LEFT_OUT}
    for pieces in track(_photos_without(city, district, photos, city_config.camera()), total=_sheets(district, photos),
                        what="ablations", unit="sheets"):  # fmt: skip
        for what, taken in pieces.items():
            hits[what] += _hits(localizer, taken, config.rerank)
    return CityAblationResult(
        output=output, reused=False, snapshot_id=localizer.snapshot_id, photos=len(photos),
        tiles=localizer.locator.snapshot.count, seconds=time.monotonic() - start,
        ablations=[
            Ablation(left_out=what, recall_at_1=count / len(photos), of_base=count / max(1, hits[BASE]))
            for what, count in hits.items()
        ],
    )  # fmt: skip


def _city_config(uri: str) -> CityConfig:
    """The configuration of a finished city."""
    record_uri = storage.join(storage.absolute(uri), "city.json")
    if not storage.exists(record_uri):
        raise ArtifactError(f"There is no finished city at {uri!r}; run `geoloc city` or check the path.")
    record = json.loads(storage.read_bytes(record_uri))
    try:
        config = CityConfig.model_validate(record["config"])
    except (KeyError, ValidationError) as error:
        raise ArtifactError(
            f"{record_uri!r} does not describe a city of this geoloc; make it again."
        ) from error
    if config.fingerprint() != record.get("fingerprint"):
        raise ArtifactError(
            f"The city at {uri!r} was made by another version of the renderer; make it again."
        )
    return config


def _sheet_of(district: District, photo: Photo) -> tuple[int, int]:
    """Row and column of the sheet that a photo lies in."""
    west, _, _, north = district.bounds
    side = district.sheets[0].bounds[2] - district.sheets[0].bounds[0]
    return int((north - photo.y) // side), int((photo.x - west) // side)


def _sheets(district: District, photos: list[Photo]) -> int:
    return len({_sheet_of(district, photo) for photo in photos})


RetakenPhotos = list[tuple[Pixels, float, str]]
"""Pictures, the true headings of their centre, and the names of their tiles."""


def _photos_without(
    city: City, district: District, photos: list[Photo], camera: Camera
) -> Iterator[dict[str, RetakenPhotos]]:
    """The photos of one sheet after the other, by what was left out."""
    names = [tile[0] for tile in district.centres]
    places = np.array([tile[1:] for tile in district.centres])
    for sheet in sorted(district.sheets, key=lambda s: (s.row, -s.column if s.row % 2 else s.column)):
        here = [photo for photo in photos if _sheet_of(district, photo) == (sheet.row, sheet.column)]
        if not here:
            continue
        window = city.window(work_bounds(sheet))
        of_photo = [names[int(np.hypot(*(places - (p.x, p.y)).T).argmin())] for p in here]
        yield {what: _take(city, window, here, of_photo, camera, what) for what in LEFT_OUT}


def _take(
    city: City, window: Window, photos: list[Photo], names: list[str], camera: Camera, what: str
) -> RetakenPhotos:
    changed = without(window, what)
    taken = []
    for photo, name in zip(photos, names, strict=True):
        look = photo_look(city.seed, *photo.key)
        picture = render_panorama(
            city, (photo.x, photo.y), look, camera, heading_deg=photo.heading_deg, window=changed
        )
        data = jpeg(blank(picture, camera, what), jpeg_quality(look.seed))
        heading = (photo.heading_deg + float(convergence_deg(photo.x, photo.y))) % 360
        taken.append((decode_image(data), heading, name))
    return taken


def _hits(localizer: Localizer, taken: RetakenPhotos, rerank: int) -> int:
    """Number of photos that have their own tile as the first match."""
    asked = [as_photo(picture, view="panorama", heading_deg=heading) for picture, heading, _ in taken]
    fixes = localizer.localize_batch(asked, k=1, rerank=rerank, min_confidence=0.0)
    return sum(
        bool(fix.matches) and fix.matches[0].tile_id == name
        for fix, (_, _, name) in zip(fixes, taken, strict=True)
    )
