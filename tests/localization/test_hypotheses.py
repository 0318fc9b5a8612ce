"""Places and what speaks for them, on matches laid out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.core import geodesy
from geoloc.localization.cluster import ClusterSettings, find_cluster, weights_of
from geoloc.localization.evidence import NAMES, Compared, evidence_of
from geoloc.localization.hypotheses import Places, find_places

SETTINGS = ClusterSettings(sigma_m=15.0, temperature=0.03)
ORIGIN = geodesy.LatLon(58.0, 25.0)


def laid_out(east: list[float], north: list[float], similarity: list[float]) -> tuple[np.ndarray, ...]:
    lat, lon = geodesy.LocalFrame(ORIGIN).to_degrees(np.array(east), np.array(north))
    return lat[None], lon[None], np.array([similarity])


def places_of(east: list[float], north: list[float], similarity: list[float]) -> tuple[Places, Compared]:
    lat, lon, values = laid_out(east, north, similarity)
    places = find_places(lat, lon, values, SETTINGS, find_cluster(lat, lon, values, SETTINGS))
    sample = np.linspace(-0.1, 0.1, 50)[None]
    compared = Compared(values, lat, lon, np.zeros_like(lat), np.linspace(0.1, 0.4, lat.size)[None], sample)
    return places, compared


def test_matches_fall_into_places_that_lie_apart() -> None:
    places, _ = places_of([0, 10, 500, 505, 2000], [0, 0, 0, 5, 0], [0.8, 0.79, 0.75, 0.74, 0.7])
    assert places.tiles[0].tolist() == [2, 2, 1]
    assert places.best[0].tolist() == [0, 2, 4]
    assert places.member.sum() == 5
    assert (places.member.sum(axis=1) <= 1).all(), "a tile lies in one place"
    distance = geodesy.distance_m(
        places.lat[0, 1], places.lon[0, 1], *geodesy.destination(*ORIGIN, 90.0, 500.0)
    )
    assert float(distance) < 8.0


def test_shares_are_softmax_weights_and_sum_to_one_at_most() -> None:
    values = [0.8, 0.75, 0.7, 0.7, 0.6, 0.5, 0.5]
    places, _ = places_of([1000.0 * k for k in range(7)], [0.0] * 7, values)
    weights = weights_of(np.array([values]), SETTINGS.temperature)[0]
    np.testing.assert_allclose(places.share[0], weights[:5])
    assert places.share.sum() < 1.0


def test_no_match_gives_no_place() -> None:
    nothing = np.full((1, 4), np.nan)
    places = find_places(
        nothing, nothing, nothing, SETTINGS, find_cluster(nothing, nothing, nothing, SETTINGS)
    )
    assert np.isnan(places.lat).all()
    assert places.best.tolist() == [[-1]]


@pytest.mark.parametrize("change", ["rival", "support", "sample"])
def test_evidence_grows_where_the_place_stands_out(change: str) -> None:
    """A weaker rival, a second tile of the place and a duller gallery each speak for the first place."""
    weak = places_of([0, 500, 900], [0, 0, 0], [0.8, 0.78, 0.5])
    strong = {
        "rival": places_of([0, 500, 900], [0, 0, 0], [0.8, 0.6, 0.5]),
        "support": places_of([0, 10, 900], [0, 0, 0], [0.8, 0.78, 0.5]),
        "sample": weak,
    }[change]
    one, other = (evidence_of(compared, places, SETTINGS) for places, compared in (weak, strong))
    if change == "sample":
        duller = Compared(**vars(strong[1]) | {"sample": strong[1].sample - 0.2})
        other = evidence_of(duller, strong[0], SETTINGS)
    names = {"rival": ("margin", "mass"), "support": ("mass", "support"), "sample": ("gallery",)}[change]
    for name in names:
        assert other.features[0, 0, NAMES.index(name)] > one.features[0, 0, NAMES.index(name)]


def test_the_numbers_of_the_evidence() -> None:
    places, compared = places_of([0, 30, 500], [0, 0, 0], [0.8, 0.8, 0.5])
    found = evidence_of(compared, places, SETTINGS)
    value = dict(zip(NAMES, found.features[0, 0], strict=True))
    assert value["similarity"] == 0.8
    assert value["margin"] == pytest.approx(0.3)
    assert value["support"] == pytest.approx(2 / 3)
    assert value["code_margin"] == pytest.approx(0.3)
    assert value["tightness"] == pytest.approx(-15.0 / SETTINGS.place_m, rel=5e-3)
    assert value["heading"] == pytest.approx(1.0)
    assert found.spacing_m[0] == pytest.approx([30.0, SETTINGS.place_m], rel=5e-3)
    assert found.other[0, 1, 1] == pytest.approx(-0.3)


def test_headings_that_disagree_speak_against_a_place() -> None:
    places, compared = places_of([0, 10, 500], [0, 0, 0], [0.8, 0.8, 0.5])
    opposite = Compared(**vars(compared) | {"heading_deg": np.array([[0.0, 180.0, 5.0]])})
    column = NAMES.index("heading")
    assert evidence_of(opposite, places, SETTINGS).features[0, 0, column] == pytest.approx(0.0, abs=1e-9)
    turned = Compared(**vars(compared) | {"heading_deg": np.array([[358.0, 2.0, 5.0]])})
    assert evidence_of(turned, places, SETTINGS).features[0, 0, column] > 0.99
