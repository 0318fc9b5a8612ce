"""What every view transform is: a module from aerial pictures to what the aerial backbone sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from geoloc.geometry.aerial import look_down

PosePx = Mapping[
    str, Any
]  # values [B] of a pose in pixels, or None, by the names of the arguments of `look_down`


class ViewTransform(nn.Module, ABC):
    """A transform of squares of `side_px`, which cover the model's field."""

    def __init__(self, side_px: int) -> None:
        super().__init__()
        self.side_px = side_px

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Squares float[B, 3, S, S] to float[B, 3, height_px, width_px]."""

    @abstractmethod
    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """Where on squares float[B, 3, S, S] each pixel is taken from: places [B, height_px, width_px, 2].

        Convention: places are those of `geometry.warp`.
        """

    def convert(self, images: torch.Tensor, pose_px: PosePx) -> torch.Tensor:
        """Pictures float[B, 3, S, S] of any side, at the model's pixel size, to float[B, 3, height_px, width_px].

        The square that the pose moves and turns is sampled first, where it is not the picture itself.
        """
        whole = images.shape[-1] == self.side_px and all(value is None for value in pose_px.values())
        seen: torch.Tensor = self(images if whole else look_down(images, side_px=self.side_px, **pose_px))
        return seen

    def place_points(self, right: torch.Tensor, forward: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Where points of the ground lie in the output, seen as a map of `size` (height, width): [..., 2].

        Convention: right and forward [...] are in halves of the field, 0 in its middle; places (x, y) are those of
        `geometry.warp`. Recipes refuse fusions that need it where the view's section has no `places_points`.
        """
        raise TypeError(f"{type(self).__name__} places no points.")

    def ground_places(self, height: int, width: int) -> torch.Tensor:
        """Right and forward float64[height, width, 2] of the pixels of a map of the output; undoes `place_points`."""
        raise TypeError(f"{type(self).__name__} places no points.")

    def control_places(self, images: torch.Tensor) -> torch.Tensor:
        """Where control points lie in squares float[B, 3, S, S], float[B, K, 2]; K = 0 for transforms without any."""
        return images.new_empty((len(images), 0, 2))

    def orientation(self, yaw_deg: torch.Tensor | None, scale: torch.Tensor | None) -> torch.Tensor:
        """Orientation maps float[B, 2, height_px, width_px] of pictures of a pose; see `geometry.orientation`.

        Recipes refuse orientation maps for learned transforms.
        """
        raise TypeError(f"{type(self).__name__} has no orientation maps.")
