"""Random differences between two views of one place: the camera's offset, the angle, light and colour.

Every draw comes from one `torch.Generator`, so that a seed fixes a run. Draws are made for the batch of all workers, of
which each worker takes its rows, so that their number changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from geoloc.models.orientation_maps import Pose
from geoloc.recipe.training import AugmentationRecipe

Draw = TypeVar("Draw")


@dataclass(frozen=True)
class PairDraw:
    """One draw for a batch of pairs: the turn and mirroring of both views, the centre of the aerial view.

    Convention: east_m, north_m [B] run from the tile's centre to the centre of the view, heading_deg [B] is
    clockwise from north and comes to the middle column (of a square: to the top) of the aerial view. `columns`
    int64[B] turns the panorama to the right: by the same angle, or with `turned_apart` by another one. `scale` [B]
    is that of the aerial view's radius; the panorama keeps `kept` int64[B] columns from `first` on (None: all) and, of
    its height, the share from `top` to `bottom` float[B] (None: all).
    """

    columns: torch.Tensor
    mirrored: torch.Tensor
    east_m: torch.Tensor
    north_m: torch.Tensor
    heading_deg: torch.Tensor
    scale: torch.Tensor | None = None
    first: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    top: torch.Tensor | None = None
    bottom: torch.Tensor | None = None
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
        if recipe.rows is not None:
            height = torch.where(fov < 360.0, uniform((count,), recipe.rows, 1.0, generator), 1.0)
            top = torch.rand(count, generator=generator) * (1.0 - height)
            draw = replace(draw, top=top, bottom=top + height)
    return draw


def draw_twice(
    camera_east_m: torch.Tensor,
    camera_north_m: torch.Tensor,
    recipe: AugmentationRecipe,
    *,
    width_px: int,
    reach_m: float,
    generator: torch.Generator,
) -> PairDraw:
    """A draw for two views of every pair, [2 B]: the first B and the last B share their turn and mirroring.

    All else is drawn for each. Convention: as `draw_pairs`.
    """
    east, north = torch.cat([camera_east_m] * 2), torch.cat([camera_north_m] * 2)
    draw = draw_pairs(east, north, recipe, width_px=width_px, reach_m=reach_m, generator=generator)
    count = len(camera_east_m)
    shared = ("mirrored",) if draw.turned_apart else ("columns", "mirrored", "heading_deg")
    return replace(draw, **{name: getattr(draw, name)[:count].repeat(2) for name in shared})


def roll_apart(
    draw: PairDraw, recipe: AugmentationRecipe, width_px: int, generator: torch.Generator
) -> PairDraw:
    """The draw with its panoramas turned a little further than its tiles, by whole columns."""
    if recipe.roll_apart_deg is None:
        return draw
    most = int(recipe.roll_apart_deg / 360 * width_px)
    more = torch.randint(-most, most + 1, (len(draw.columns),), generator=generator)
    return replace(draw, columns=draw.columns + more)


def draw_seeds(count: int, generator: torch.Generator) -> torch.Tensor:
    """Seeds int64[count] for what is drawn pixel by pixel or point by point.

    A worker draws it for its own items alone, and they get what they would get in a batch of one worker.
    """
    return torch.randint(0, 2**62, (count,), generator=generator)


def of_items(seeds: torch.Tensor, shape: tuple[int, ...], use: int, *, normal: bool = False) -> torch.Tensor:
    """float[B, *shape], uniform in [0, 1) or normal, each item by its seed of int64[B] and a number of the use."""
    kind = torch.randn if normal else torch.rand
    return torch.stack(
        [kind(shape, generator=torch.Generator().manual_seed(int(seed) + use)) for seed in seeds]
    )


def erase(images: torch.Tensor, share: float, seeds: torch.Tensor) -> torch.Tensor:
    """A share of float[B, 3, H, W] with a rectangle of noise, of 2 to 25 % of the area, 1:3 to 3:1 (random erasing).

    `seeds` int64[B] are those of `draw_seeds`. Source: Zhong et al., AAAI 2020. The noise is uniform in 0..1.
    """
    _, _, height, width = images.shape
    drawn = of_items(seeds, (5,), 0)
    area = (0.02 + 0.23 * drawn[:, 0]) * height * width
    ratio = torch.exp((2 * drawn[:, 1] - 1) * math.log(3))
    tall = (area * ratio).sqrt().clamp(max=height)
    wide = (area / ratio).sqrt().clamp(max=width)
    top, left = drawn[:, 2] * (height - tall), drawn[:, 3] * (width - wide)
    chosen = drawn[:, 4] < share
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    hidden = inside_rows[:, :, None] & inside_columns[:, None] & chosen[:, None, None]
    noise = of_items(seeds, (1, height, width), 1).to(images)
    return torch.where(hidden[:, None].to(images.device), noise, images)


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


@dataclass(frozen=True)
class LightDraw:
    """One draw of light and colours for a batch.

    Factors of saturation and contrast float[B, 1, 1] and of each channel float[B, 3, 1], and what is added to all
    channels, float[B, 1, 1].
    """

    saturation: torch.Tensor
    contrast: torch.Tensor
    gain: torch.Tensor
    shift: torch.Tensor


def draw_light(count: int, strength: float, generator: torch.Generator) -> LightDraw | None:
    """Other light and colours for `count` pictures; None, and nothing is drawn, where `strength` is 0."""
    if strength == 0.0:
        return None
    one = (count, 1, 1)
    saturation = 1 + uniform(one, -0.4, 0.4, generator) * strength
    contrast = 1 + uniform(one, -0.3, 0.3, generator) * strength
    gain = 1 + uniform(one, -0.25, 0.25, generator) * strength
    gain = gain + 0.08 * strength * torch.randn((count, 3, 1), generator=generator)
    shift = 0.06 * strength * torch.randn(one, generator=generator)
    return LightDraw(saturation, contrast, gain, shift)


def change_light(images: torch.Tensor, draw: LightDraw | None) -> torch.Tensor:
    """Pictures float[B, 3, H, W] in 0..1 in the light of a draw; None changes nothing.

    All of it is one affine map of the colours per picture, applied in one pass. The result may leave 0..1 a little.
    """
    if draw is None:
        return images
    count = len(images)
    grey = torch.full((3, 3), 1 / 3, device=draw.gain.device)
    eye = torch.eye(3, device=draw.gain.device)
    matrix = draw.gain * draw.contrast * (grey + (eye - grey) * draw.saturation)
    # Contrast turns about the picture's mean colour, for which every fourth row and column is enough.
    middle = images[:, :, ::4, ::4].mean((2, 3), keepdim=True).flatten(1)[:, :, None]
    bias = matrix @ middle * (1 / draw.contrast - 1) + draw.shift
    pixels = images.permute(0, 2, 3, 1).reshape(count, -1, 3)
    changed = torch.baddbmm(bias.transpose(1, 2), pixels, matrix.transpose(1, 2))
    return changed.view(count, *images.shape[2:], 3).permute(0, 3, 1, 2)


def taken(draw: Draw, rows: slice | torch.Tensor, device: torch.device) -> Draw:
    """The rows of a draw (None stays None) on a device; `rows` is a slice or numbers int64[n].

    Draws are made on the CPU, the same for every device.
    """
    if draw is None:
        return draw
    moved: dict[str, Any] = {
        name: value[rows].to(device) if isinstance(value, torch.Tensor) else taken(value, rows, device)
        for name, value in vars(draw).items()
        if isinstance(value, torch.Tensor | LightDraw)
    }
    changed: Draw = replace(draw, **moved)  # type: ignore[type-var]
    return changed
