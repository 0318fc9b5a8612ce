"""Networks compiled by PyTorch's inductor, as an option of training."""

from __future__ import annotations

from typing import Any

from geoloc.models.geolocalizer import GeoLocalizer


def compile_backbones(model: GeoLocalizer, **options: Any) -> None:
    """Compile a model's backbones in place, at their first batch; names of weights stay. `options`: torch.compile's.

    Views, heads and losses stay as they are: they are small, and have shapes of their own at every step.
    """
    for backbone in {id(each): each for each in model.backbones.values()}.values():
        backbone.compile(**options)
