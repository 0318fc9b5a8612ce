from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError, QueryError
from geoloc.geometry.street_graph import StreetGraph
from geoloc.localization.routes.motion import DistanceMotion, GridMotion, HopMotion, Motion, Step
from tests.localization.routes.small_graphs import grid_graph, random_graph


def by_place(motion: Motion, state: int, step: Step) -> dict[int, float]:
    moves = motion.moves(np.array([state]), step)
    total = np.bincount(motion.place[moves.target], moves.weight)
    return {int(place): float(total[place]) for place in np.flatnonzero(total)}


def state_of(motion: HopMotion | DistanceMotion, before: int, place: int) -> int:
    return int(np.flatnonzero((motion.before == before) & (motion.place == place))[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [HopMotion, DistanceMotion])
def test_what_does_not_move_on_leaves(seed: int, kind: type) -> None:
    motion = kind(random_graph(seed, 8))
    moves = motion.moves(np.arange(len(motion.place)), Step())
    onward = np.bincount(moves.source, moves.weight, len(motion.place))
    assert onward + moves.leaving == pytest.approx(1.0)
    assert (np.diff(moves.source) >= 0).all()


def test_a_walk_goes_on_and_rarely_turns_back() -> None:
    motion = HopMotion(grid_graph(3), turn_back=0.1)
    assert by_place(motion, 4, Step()) == pytest.approx(dict.fromkeys((1, 3, 5, 7), 0.25))
    came_from_3 = by_place(motion, state_of(motion, 3, 4), Step())
    assert came_from_3 == pytest.approx({3: 0.1, 1: 0.3, 5: 0.3, 7: 0.3})


def test_an_observed_turn_bit_weighs_the_links_by_their_headings() -> None:
    graph = StreetGraph(np.arange(3.0), np.zeros(3), np.array([0.0, 90.0, 100.0]), np.array([[0, 1], [1, 2]]))
    motion = HopMotion(graph)
    turned = by_place(motion, 1, Step(turned=True))
    assert turned[0] / turned[2] == pytest.approx(99.0)
    straight = by_place(motion, 1, Step(turned=False))
    assert straight[2] / straight[0] == pytest.approx(99.0)


def test_metres_and_turns_say_where_on_the_streets() -> None:
    cross = grid_graph(9)
    motion = DistanceMotion(cross.only((cross.x == 40) | (cross.y == 40)), reach_m=60.0)
    x, y = motion.graph.x, motion.graph.y

    def node(east: float, north: float) -> int:
        return int(np.flatnonzero((x == east) & (y == north))[0])

    def likeliest(state: int, step: Step) -> tuple[float, float]:
        chance = by_place(motion, state, step)
        best = max(chance, key=lambda place: chance[place])
        return float(x[best]), float(y[best])

    start = state_of(motion, node(20, 40), node(30, 40))  # towards the east
    ahead = Step(moved_m=30.0, moved_sd_m=2.0, turn_deg=0.0, turn_sd_deg=10.0)
    assert likeliest(start, ahead) == (60, 40)
    right = Step(moved_m=30.0, moved_sd_m=2.0, turn_deg=90.0, turn_sd_deg=10.0)
    assert likeliest(start, right) == (40, 20)  # right of east is south
    west = Step(moved_m=20.0, moved_sd_m=2.0, course_deg=270.0, course_sd_deg=10.0)
    assert likeliest(node(60, 40), west) == (40, 40)
    assert sum(by_place(motion, start, Step(moved_m=0.0, moved_sd_m=1.0)).values()) > 0.9


def test_a_grid_goes_by_course_and_metres_and_its_edge_leads_out() -> None:
    x, y = (part.ravel() for part in np.meshgrid(np.arange(0, 200, 10.0), np.arange(0, 200, 10.0)))
    motion = GridMotion(x, y)
    middle = 10 * 20 + 10
    moves = motion.moves(np.array([middle]), Step(moved_m=40.0, course_deg=90.0))
    best = moves.target[moves.weight.argmax()]
    assert (x[best], y[best]) == (140.0, 100.0)
    assert moves.weight.sum() + moves.leaving[0] == pytest.approx(1.0)
    assert moves.leaving[0] < 0.05
    corner = motion.moves(np.array([0]), Step(moved_m=50.0, course_deg=225.0))
    assert corner.leaving[0] > 0.9
    ring = motion.moves(np.array([middle]), Step(moved_m=50.0, moved_sd_m=5.0))
    away = np.hypot(x[ring.target] - 100, y[ring.target] - 100)
    assert ring.weight @ away == pytest.approx(50.0, abs=2.0)
    assert ring.weight.sum() == pytest.approx(1.0, abs=0.05)


def test_motions_out_of_range_are_refused() -> None:
    with pytest.raises(QueryError, match="moved_m is -1"):
        Step(moved_m=-1.0)
    with pytest.raises(QueryError, match="turn_deg is nan"):
        Step(turn_deg=float("nan"))
    with pytest.raises(QueryError, match=r"moved 500 m \(error 125 m\), beyond the reach of 60 m"):
        DistanceMotion(grid_graph(3)).moves(np.array([0]), Step(moved_m=500.0))
    empty = StreetGraph(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 2), np.int64))
    with pytest.raises(ConfigError, match="holds no place"):
        HopMotion(empty)
    with pytest.raises(ConfigError, match="turn_back is 1"):
        HopMotion(grid_graph(2), turn_back=1.0)
