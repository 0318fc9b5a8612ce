"""Batch norms folded into the convolutions before them: a trained model encodes with fewer passes over memory."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_Model = TypeVar("_Model", bound=nn.Module)


def fold_batch_norms(model: _Model) -> _Model:
    """Fold each batch norm that directly follows a convolution of an `nn.Sequential`; changes `model`, returns it.

    A batch norm with fixed statistics is a factor and a summand for each channel, so the convolution can have them.
    Results differ by float32 rounding (1e-6). The model must be in evaluation mode: it cannot be trained afterwards.
    """
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            _fold(module)
    return model


def _fold(layers: nn.Sequential) -> None:
    for place in range(len(layers) - 1):
        convolution, norm = layers[place], layers[place + 1]
        if (
            isinstance(convolution, nn.Conv2d)
            and isinstance(norm, nn.BatchNorm2d)
            and norm.track_running_stats
        ):
            layers[place] = fuse_conv_bn_eval(convolution, norm)
            layers[place + 1] = nn.Identity()
