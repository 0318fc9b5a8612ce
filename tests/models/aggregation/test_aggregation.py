from __future__ import annotations

import numpy as np
import pytest
import torch

from geoloc.models.aggregation.columns import ColumnAttention, HeightMean
from geoloc.models.aggregation.pooling import GemHead, GemPool, MaxPool, MeanMaxPool, MeanPool
from geoloc.models.aggregation.safa import SafaHead, SafaHeads
from geoloc.recipe.model import AggregationSection


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_mean_is_the_mean() -> None:
    x = features(2, 5, 3, 4)
    got = MeanPool().build(5, (3, 4))(x)
    assert got.shape == (2, 5, 1)
    np.testing.assert_allclose(got[..., 0].numpy(), x.numpy().mean((2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 3.0])
@pytest.mark.parametrize("learnt", [False, True])
def test_gem_by_the_formula(p: float, learnt: bool) -> None:
    x = features(2, 5, 3, 4)
    head = GemHead(GemPool(p=p, learnt=learnt), 5, (3, 4))
    expected = (np.maximum(x.numpy(), 1e-6) ** p).mean((2, 3)) ** (1 / p)
    np.testing.assert_allclose(head(x)[..., 0].detach().numpy(), expected, rtol=1e-4)
    assert [name for name, _ in head.named_parameters()] == (["p"] if learnt else [])
    if learnt:
        head(x).sum().backward()
        assert head.p.grad is not None
        assert head.p.grad.abs() > 0


def test_gem_with_an_exponent_for_each_channel() -> None:
    x = features(2, 3, 4, 5).abs()
    head = GemHead(GemPool(learnt="channels"), 3, (4, 5))
    exponents = np.array([1.0, 3.0, 7.5])
    with torch.no_grad():
        head.p.copy_(torch.from_numpy(exponents)[:, None, None])
    got = head(x)
    assert got.shape == (2, 3, 1)
    for channel, p in enumerate(exponents):
        expected = (x[:, channel].double().numpy() ** p).mean((1, 2)) ** (1 / p)
        np.testing.assert_allclose(got[:, channel, 0].detach().numpy(), expected, rtol=1e-4)
    got.sum().backward()
    assert head.p.grad.shape == (3, 1, 1)
    assert (head.p.grad.abs() > 0).all()


def test_the_maximum_and_both_side_by_side() -> None:
    x = features(2, 5, 3, 4)
    largest, mean = x.numpy().max((2, 3)), x.numpy().mean((2, 3))
    np.testing.assert_array_equal(MaxPool().build(5, (3, 4))(x)[..., 0].numpy(), largest)
    both = MeanMaxPool()
    assert both.output_channels(5) == 10
    expected = np.concatenate([mean, largest], axis=1)
    np.testing.assert_allclose(both.build(5, (3, 4))(x)[..., 0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_gem_of_nothing_but_negatives_is_no_nan() -> None:
    x = (-features(2, 3, 4, 4).abs()).requires_grad_()
    head = GemHead(GemPool(), 3, (4, 4))
    head(x).sum().backward()
    assert torch.isfinite(head(x)).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_safa_by_plain_loops(pool: str) -> None:
    torch.manual_seed(0)
    channels, height, width, heads = 4, 2, 3, 5
    head = SafaHead(SafaHeads(heads=heads, pool=pool), channels, (height, width))
    x = features(2, channels, height, width)
    got = head(x)[..., 0].detach().numpy()
    assert got.shape == (2, channels * heads)
    down, down_bias = head.down.detach().numpy(), head.down_bias.detach().numpy()
    up, up_bias = head.up.detach().numpy(), head.up_bias.detach().numpy()
    assert down.shape == (6, 3, heads)  # positions to half of them
    for row in range(2):
        flat = x[row].numpy().reshape(channels, -1)
        mask = flat.max(0) if pool == "max" else flat.mean(0)
        for h in range(heads):
            inner = mask @ down[:, :, h] + down_bias[:, h]
            weights = inner @ up[:, :, h] + up_bias[:, h]
            for c in range(channels):
                assert got[row, c * heads + h] == pytest.approx(float(flat[c] @ weights), rel=1e-4, abs=1e-5)


def test_safa_starts_as_published() -> None:
    torch.manual_seed(0)
    head = SafaHead(SafaHeads(), 4, (10, 20))
    assert head.down.std().item() == pytest.approx(0.005, rel=0.02)
    assert (head.up_bias == 0.1).all()


@pytest.mark.parametrize(
    "recipe", [HeightMean(columns=4, channels=3), ColumnAttention(columns=4, channels=3)]
)
def test_heads_that_keep_the_azimuth_turn_with_the_map(recipe: HeightMean) -> None:
    torch.manual_seed(0)
    head = recipe.build(5, (2, 8))
    x = features(2, 5, 2, 8)
    assert head(x).shape == (2, 3, 4)
    torch.testing.assert_close(head(x.roll(2, -1)), head(x).roll(1, -1))


@pytest.mark.parametrize("section", [MeanPool(), MaxPool(), MeanMaxPool(), GemPool(learnt="channels")])
def test_heads_of_any_size_are_those_built_for_that_size(section: AggregationSection) -> None:
    assert section.any_size
    x = features(2, 5, 6, 8)
    smaller, larger = section.build(5, (3, 4)), section.build(5, (6, 8))
    larger.load_state_dict(smaller.state_dict())
    torch.testing.assert_close(smaller(x), larger(x), rtol=0, atol=0)


@pytest.mark.parametrize("section", [SafaHeads(heads=2), ColumnAttention(columns=4), HeightMean(columns=4)])
def test_other_heads_do_not_say_so(section: AggregationSection) -> None:
    assert not section.any_size
