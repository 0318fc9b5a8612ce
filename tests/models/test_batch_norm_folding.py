from __future__ import annotations

import pytest
import torch
from torch import nn

from geoloc.models.batch_norm_folding import fold_batch_norms
from geoloc.models.encoder import Encoder
from geoloc.models.store import load_model
from tests.small_index import make_model, small_recipe


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_folded_network_gives_the_same_and_has_no_norm_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2)
    )
    for norm in _norms(model):
        norm.running_mean = torch.randn(8)
        norm.running_var = torch.rand(8) + 0.5
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    images = torch.rand(2, 3, 16, 16)
    want = model.eval()(images)
    assert want.abs().max() > 0.1
    assert torch.allclose(fold_batch_norms(model)(images), want, atol=1e-5)
    assert _norms(model) == []


def test_norms_that_follow_no_convolution_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)).eval()
    assert len(_norms(fold_batch_norms(model))) == 1


def test_a_model_in_training_is_not_folded() -> None:
    with pytest.raises(AssertionError, match="eval"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))


def test_an_opened_encoder_is_folded_and_embeds_as_its_model(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    uri = str(tmp_path_factory.mktemp("model"))
    make_model(uri, small_recipe())
    model, recipe, card = load_model(uri)
    plain, opened = Encoder(model, recipe, card.model_id), Encoder.open(uri, device="cpu")
    assert _norms(model)
    assert not _norms(opened._model)
    rng = torch.Generator().manual_seed(1)
    for view, size in (("aerial", (64, 64)), ("panorama", (32, 64))):
        pictures = torch.randint(0, 255, (3, *size, 3), generator=rng, dtype=torch.uint8).numpy()
        got, want = opened.encode(pictures, view), plain.encode(pictures, view)  # type: ignore[arg-type]
        assert abs(got.embedding - want.embedding).max() < 1e-5
