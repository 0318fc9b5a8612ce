"""Random differences between two views of one place: the camera's offset, the angle, light and colour.

Every draw comes from one `torch.Generator`, so that a seed fixes a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from geoloc.models.orientation_maps import Pose
from geoloc.recipe.training import AugmentationRecipe


@dataclass(frozen=True)
class PairDraw:
    """One draw for a batch of pairs: the turn and mirroring of both views, the centre of the aerial view.

    Convention: east_m, north_m [B] run from the tile's centre to the centre of the view, heading_deg [B] is
    clockwise from north and comes to the middle column (of a square: to the top) of the aerial view. `columns`
    int64[B] turns the panorama to the right: by the same angle, or with `turned_apart` by another one. `scale` [B]
    is that of the aerial view's radius; the panorama keeps `kept` int64[B] columns from `first` on (None: all).
    """

    columns: torch.Tensor
    mirrored: torch.Tensor
    east_m: torch.Tensor
    north_m: torch.Tensor
    heading_deg: torch.Tensor
    scale: torch.Tensor | None = None
    first: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    turned_apart: bool = False

    @property
    def aerial(self) -> Pose:
        """The pose of the aerial view."""
        return Pose(self.east_m, self.north_m, self.heading_deg, self.scale, self.mirrored)

    def orientation_poses(self, width_px: int) -> tuple[Pose | None, Pose | None]:
        """Poses for the orientation maps of the panorama (of `width_px` columns) and of the aerial view.

        Views that are turned together are shown as if their middle were north; turned apart, the maps turn too.
        """
        if not self.turned_apart:
            return None, None if self.scale is None else Pose(scale=self.scale)
        ground = Pose(heading_deg=self.columns * (360.0 / width_px), mirrored=self.mirrored)
        return ground, Pose(heading_deg=self.heading_deg, scale=self.scale, mirrored=self.mirrored)

    def relative_turn(self, width_px: int) -> torch.Tensor:
        """How far the panorama's middle looks to the right of the aerial view's, in circles, float[B]."""
        turn = self.columns / width_px - self.heading_deg / 360.0
        return torch.where(self.mirrored, -turn, turn)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """float[shape], uniform in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def in_disc(count: int, radius: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (x, y) [count], uniform in the disc of a radius."""
    angle = uniform((count,), 0.0, 2 * math.pi, generator)
    length = radius * torch.rand(count, generator=generator).sqrt()
    return length * torch.cos(angle), length * torch.sin(angle)


def draw_pairs(
    camera_east_m: torch.Tensor,
    camera_north_m: torch.Tensor,
    recipe: AugmentationRecipe,
    *,
    width_px: int,
    reach_m: float,
    generator: torch.Generator,
) -> PairDraw:
    """A common turn and mirroring of both views, and an aerial centre within `offset_m` of each camera.

    Convention: camera_east_m, camera_north_m [B] are the cameras from the tiles' centres; the drawn centre stays
    within `reach_m` of the tile's centre in east and in north, so that the model's field stays on the tile.
    """
    count = len(camera_east_m)
    east, north = in_disc(count, recipe.offset_m, generator)
    columns = torch.randint(0, width_px if recipe.roll else 1, (count,), generator=generator)
    mirrored = torch.rand(count, generator=generator) < (0.5 if recipe.flip else 0.0)
    draw = PairDraw(
        columns=columns,
        mirrored=mirrored,
        east_m=(camera_east_m + east).clamp(-reach_m, reach_m),
        north_m=(camera_north_m + north).clamp(-reach_m, reach_m),
        heading_deg=columns * (360.0 / width_px),
    )
    return _draw_further(draw, recipe, width_px, generator)


def _draw_further(
    draw: PairDraw, recipe: AugmentationRecipe, width_px: int, generator: torch.Generator
) -> PairDraw:
    """The draws that only some recipes need, after those of every recipe."""
    count = len(draw.columns)
    if recipe.turn == "quarters":
        quarters = torch.randint(0, 4, (count,), generator=generator)
        draw = replace(draw, turned_apart=True, heading_deg=90.0 * quarters)
    elif recipe.turn == "any":
        draw = replace(draw, turned_apart=True, heading_deg=uniform((count,), 0.0, 360.0, generator))
    if recipe.centre_crop is not None:
        smallest, chance = recipe.centre_crop
        share = uniform((count,), smallest, 1.0, generator)
        cropped = torch.rand(count, generator=generator) < chance
        draw = replace(draw, scale=torch.where(cropped, share, 1.0))
    if recipe.fov_deg is not None:
        fov = uniform((count,), *recipe.fov_deg, generator)
        first = torch.randint(0, width_px, (count,), generator=generator)
        if recipe.whole is not None:
            fov = torch.where(torch.rand(count, generator=generator) < recipe.whole, 360.0, fov)
        draw = replace(
            draw,
            first=first,
            kept=(fov / 360 * width_px).long().clamp(min=1),
        )
    return draw


def draw_drone(
    draw: PairDraw, recipe: AugmentationRecipe, *, reach_m: float, generator: torch.Generator
) -> Pose:
    """The pose of a second aerial view: shifted, scaled and slightly turned against the first.

    Convention: as `Pose`; at query time the heading is searched in whole columns, so the turn is a few degrees.
    """
    count = len(draw.columns)
    east, north = in_disc(count, recipe.aerial_shift_m, generator)
    log_scale = math.log(recipe.aerial_scale)
    return Pose(
        east_m=(draw.east_m + east).clamp(-reach_m, reach_m),
        north_m=(draw.north_m + north).clamp(-reach_m, reach_m),
        heading_deg=draw.heading_deg
        + uniform((count,), -recipe.aerial_turn_deg, recipe.aerial_turn_deg, generator),
        scale=torch.exp(uniform((count,), -log_scale, log_scale, generator)),
        mirrored=draw.mirrored,
    )


def change_light(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Other light and colours for float[B, 3, H, W] in 0..1: saturation, contrast, gain per channel, brightness.

    All of it is one affine map of the colours per picture, applied in one pass. The result may leave 0..1 a
    little; `strength` 0 changes nothing.
    """
    if strength == 0.0:
        return images
    count = len(images)
    one = (count, 1, 1)
    saturation = 1 + uniform(one, -0.4, 0.4, generator) * strength
    contrast = 1 + uniform(one, -0.3, 0.3, generator) * strength
    gain = 1 + uniform(one, -0.25, 0.25, generator) * strength
    gain = gain + 0.08 * strength * torch.randn((count, 3, 1), generator=generator)
    shift = 0.06 * strength * torch.randn(one, generator=generator)
    grey = torch.full((3, 3), 1 / 3)
    matrix = (gain * contrast * (grey + (torch.eye(3) - grey) * saturation)).to(images.device)
    # Contrast turns about the picture's mean colour, for which every fourth row and column is enough.
    middle = images[:, :, ::4, ::4].mean((2, 3), keepdim=True).flatten(1)[:, :, None]
    bias = matrix @ middle * (1 / contrast - 1).to(images.device) + shift.to(images.device)
    pixels = images.permute(0, 2, 3, 1).reshape(count, -1, 3)
    changed = torch.baddbmm(bias.transpose(1, 2), pixels, matrix.transpose(1, 2))
    return changed.view(count, *images.shape[2:], 3).permute(0, 3, 1, 2)
