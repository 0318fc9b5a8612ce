"""Spatial transformers (Jaderberg et al., NeurIPS 2015): networks that choose what the aerial branch sees.

As in "Realistic Cross-View Image Geo-Localization" (STN): a small localisation network predicts an affine map or
the control points of a thin plate spline. Convention: grids are those of `geometry.warp`, whose pixels have their
value in their middle (align_corners=False, for making and for sampling); before training a transformer is
the identity or the polar view's spline.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from geoloc.geometry.warp import (
    affine_grid,
    control_points,
    polar_places,
    sample,
    spline_grid,
    spline_operator,
)
from geoloc.models.views.transform import ViewTransform
from geoloc.recipe.model import ViewSection
from geoloc.recipe.registry import PositiveFloat, PositiveInt, register


class AffineView(ViewSection):
    """Spatial transformer with one affine map, learned from the identity."""

    title = "affine transformer"
    learned = True
    kind: Literal["affine"] = "affine"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256


class ComposedView(ViewSection):
    """Three affine transformers with residual blocks between them (3 to 8 channels and back)."""

    title = "composed transformer"
    learned = True
    kind: Literal["composed"] = "composed"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256


class SplineView(ViewSection):
    """Spatial transformer with a thin plate spline over a regular grid of control points."""

    title = "thin plate spline"
    learned = True
    kind: Literal["tps"] = "tps"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256
    rows: Annotated[int, Field(ge=2)] = 6
    columns: Annotated[int, Field(ge=2)] = 10
    span: PositiveFloat = Field(0.9, description="control points lie in -span to span of the output")
    start: Literal["identity", "polar"] = Field("identity", description="map before anything is learned")

    @property
    def starts_polar(self) -> bool:
        """Whether the output is a polar image before anything is learned."""
        return self.start == "polar"

    def describe(self) -> str:
        """The transform in a few words, with what differs from the defaults."""
        return f"{self.title} from the {'polar image' if self.starts_polar else self.start}"


class LocalisationNet(nn.Module):
    """Four convolutions with pooling, batch norm and ReLU, then one hidden layer.

    Kernels 7, 5, 3, 3 without padding, 8, 10, 10, 10 channels. The last layer's weights start at zero and its
    biases at `start`, so that the transform starts there for every picture.
    """

    def __init__(self, channels: int, side_px: int, hidden: int, start: torch.Tensor) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        side = side_px
        for inputs, outputs, kernel in ((channels, 8, 7), (8, 10, 5), (10, 10, 3), (10, 10, 3)):
            blocks += [
                nn.Conv2d(inputs, outputs, kernel),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            side = (side - kernel + 1) // 2
        self.features = nn.Sequential(*blocks)
        self.hidden = nn.Linear(10 * side * side, hidden)
        self.out = nn.Linear(hidden, start.numel())
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(start.flatten())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Squares float[B, C, S, S] to the transform's numbers float[B, P]."""
        numbers: torch.Tensor = self.out(F.relu(self.hidden(self.features(images).flatten(1))))
        return numbers


class LocalisedTransform(ViewTransform):
    """Samples every picture once, where its localisation network says (`grid`).

    `size` is the height and width of the output, `start` what the network says before anything is learned.
    """

    def __init__(
        self, side_px: int, size: tuple[int, int], start: torch.Tensor, *, hidden: int, channels: int = 3
    ) -> None:
        super().__init__(side_px)
        self.size = size
        self.localise = LocalisationNet(channels, side_px, hidden, start)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, C, S, S] to float[B, C, height_px, width_px]."""
        return sample(images, self.grid(images))


@register(AffineView)
class AffineTransformer(LocalisedTransform):
    """One affine map of the plane, from the identity on."""

    def __init__(self, recipe: AffineView, side_px: int, channels: int = 3) -> None:
        start = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        size = (recipe.height_px, recipe.width_px)
        super().__init__(side_px, size, start, hidden=64, channels=channels)

    def matrices(self, images: torch.Tensor) -> torch.Tensor:
        """The maps of pictures float[B, C, S, S], float[B, 2, 3]: input place = A (output place, 1)."""
        numbers: torch.Tensor = self.localise(images)
        return numbers.view(-1, 2, 3)

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """Where the output of float[B, C, S, S] is taken from: places [B, height_px, width_px, 2]."""
        return affine_grid(self.matrices(images), *self.size)


class ResidualBlock(nn.Module):
    """Two convolutions beside a 1 x 1 shortcut; starts as the identity of the channels that both sides have."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        nn.init.zeros_(self.body[4].weight)  # type: ignore[arg-type]
        with torch.no_grad():
            self.shortcut.weight.copy_(torch.eye(outputs, inputs)[:, :, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, inputs, H, W] to float[B, outputs, H, W]."""
        added: torch.Tensor = self.shortcut(images) + self.body(images)
        return added


@register(ComposedView)
class ComposedTransformer(ViewTransform):
    """Transformer, block (3 to 8 channels), transformer, block (8 to 3), transformer.

    The first two keep the tile's square, the last gives the output's size. The blocks' last activation is left
    out, so that the whole starts as the identity.
    """

    def __init__(self, recipe: ComposedView, side_px: int) -> None:
        super().__init__(side_px)
        square = AffineView(height_px=side_px, width_px=side_px)
        last = AffineView(height_px=recipe.height_px, width_px=recipe.width_px)
        self.steps = nn.Sequential(
            AffineTransformer(square, side_px),
            ResidualBlock(3, 8),
            AffineTransformer(square, side_px, channels=8),
            ResidualBlock(8, 3),
            AffineTransformer(last, side_px),
        )

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """Where the output of float[B, 3, S, S] is taken from: places [B, height_px, width_px, 2].

        The three maps one after the other; what the blocks between them do to the colours moves nothing.
        """
        whole = torch.eye(3, device=images.device).expand(len(images), -1, -1)
        size = (images.shape[-2], images.shape[-1])
        for step in self.steps:
            if isinstance(step, AffineTransformer):
                last = whole.new_tensor([[[0.0, 0.0, 1.0]]]).expand(len(images), -1, -1)
                whole = whole @ torch.cat([step.matrices(images), last], dim=1)
                size = step.size
            images = step(images)
        return affine_grid(whole[:, :2], *size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, 3, S, S] to float[B, 3, height_px, width_px]."""
        moved: torch.Tensor = self.steps(images)
        return moved


@register(SplineView)
class SplineTransformer(LocalisedTransform):
    """A thin plate spline whose control points, regular in the output, are moved in the input without bound."""

    operator: torch.Tensor

    def __init__(self, recipe: SplineView, side_px: int) -> None:
        points = control_points(recipe.rows, recipe.columns, recipe.span)
        start = points if recipe.start == "identity" else polar_places(points)
        super().__init__(side_px, (recipe.height_px, recipe.width_px), start.float(), hidden=512)
        operator = spline_operator(points, *self.size).float()
        self.register_buffer("operator", operator, persistent=False)

    def control_places(self, images: torch.Tensor) -> torch.Tensor:
        """Where the control points of float[B, 3, S, S] lie in the input, float[B, rows * columns, 2]."""
        numbers: torch.Tensor = self.localise(images)
        return numbers.view(len(images), -1, 2)

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """Where the output of float[B, 3, S, S] is taken from: places [B, height_px, width_px, 2]."""
        return spline_grid(self.operator, self.control_places(images), *self.size)
