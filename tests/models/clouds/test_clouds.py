"""Encoders of point clouds: neighbours by brute force, no order of points, rows apart, the stated bound of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from geoloc.geometry.clouds import farthest_points
from geoloc.models.clouds.network import CloudNetwork, farthest_rows, gather_points, nearest
from geoloc.recipe.model import CloudBranch, CloudEncoderSection
from geoloc.recipe.registry import registered

KINDS = sorted(registered(CloudEncoderSection))
INPUTS, POINTS = 28, 64
SMALL: dict[str, dict[str, Any]] = {
    "pointnet": {"widths": [8, 16, 24]},
    "pointnet2": {
        "levels": [
            {"points": 24, "radius": 0.4, "neighbours": 8, "widths": [8, 16]},
            {"points": 8, "radius": 0.8, "neighbours": 8, "widths": [16]},
        ]
    },
    "dgcnn": {"widths": [8, 16], "neighbours": 5},
    "transformer": {"width": 16, "layers": 2},
}


def network(kind: str) -> CloudNetwork[Any]:
    torch.manual_seed(0)
    section = CloudBranch.model_validate(
        {"encoder": {"kind": kind, "channels": 12, **SMALL.get(kind, {})}}
    ).encoder
    built: CloudNetwork[Any] = section.build(INPUTS)
    return built


def clouds(count: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = 2 * torch.rand(count, 3, POINTS, generator=generator) - 1
    kinds = torch.randint(0, INPUTS - 3, (count, POINTS), generator=generator)
    return torch.cat([places, torch.nn.functional.one_hot(kinds, INPUTS - 3).transpose(1, 2).float()], dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cloud_is_a_set_and_stands_for_itself(kind: str) -> None:
    """Its other points come in any order, and the clouds beside it change nothing."""
    net, batch = network(kind).eval(), clouds()
    with torch.no_grad():
        whole = net(batch)
        assert whole.features.shape == (3, 12, whole.places.shape[2])
        order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(POINTS - 1)])
        shuffled = net(batch[:, :, order])
        torch.testing.assert_close(shuffled.features.amax(2), whole.features.amax(2), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(batch[1:2]).features[0], whole.features[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind: str) -> None:
    net = network(kind).train()
    net(clouds()).features.square().sum().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage().nbytes()  # views of nothing larger than what they show
                self.size = max(self.size, min(storage, each.numel() * each.element_size()))
        return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("points", [64, 256])
def test_no_tensor_is_larger_than_the_stated_bound(kind: str, points: int) -> None:
    net = network(kind).eval()
    batch = torch.cat([clouds(2, seed) for seed in range(points // POINTS)], dim=2)
    with torch.no_grad(), Largest() as largest:
        net(batch)
    assert largest.size <= 2 * net.recipe.bytes_per_cloud(points)


def test_nearest_points_and_groups_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(1)
    places, centres = rng.normal(size=(2, 3, 30)), rng.normal(size=(2, 3, 7))
    squared, rows = nearest(torch.from_numpy(places), torch.from_numpy(centres), 4)
    taken = gather_points(torch.from_numpy(places), rows)
    for b in range(2):
        for c in range(7):
            apart = ((places[b] - centres[b][:, c : c + 1]) ** 2).sum(0)
            expected = np.argsort(apart)[:4]
            assert rows[b, c].tolist() == expected.tolist()
            np.testing.assert_allclose(squared[b, c], apart[expected], atol=1e-9)
            np.testing.assert_array_equal(taken[b, :, c].numpy(), places[b][:, expected])


def test_the_batched_sampling_is_that_of_single_clouds() -> None:
    rng = np.random.default_rng(2)
    places = rng.normal(size=(4, 3, 50)).astype(np.float32)
    rows = farthest_rows(torch.from_numpy(places), 20)
    for b in range(4):
        assert rows[b].tolist() == farthest_points(np.ascontiguousarray(places[b].T), 20).tolist()


def test_levels_that_grow_are_refused() -> None:
    level = {"radius": 0.2, "neighbours": 4, "widths": [8]}
    with pytest.raises(ValueError, match="no more than the last"):
        CloudBranch.model_validate(
            {"encoder": {"kind": "pointnet2", "levels": [{"points": 8, **level}, {"points": 16, **level}]}}
        )
