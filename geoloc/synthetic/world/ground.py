"""Painting a chunk's ground: materials, tones, hedges and road markings as flat layers.

Polygons are painted by Pillow on whole pixels. Vertices are first put on the city's own pixel grid, so a chunk's
picture does not depend on where painting began.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.synthetic.world import blocks as kinds
from geoloc.synthetic.world.blocks import Block
from geoloc.synthetic.world.epochs import paving_epochs
from geoloc.synthetic.world.network import CURVE_POINTS, Edges, Network
from geoloc.synthetic.world.noise import hash_array, noise_raster
from geoloc.synthetic.world.style import CHUNK_M, CHUNK_PX, PIXEL_M

_BASE = {
    kinds.PARK: kinds.LAWN,
    kinds.SPORT: kinds.LAWN,
    kinds.HOUSES: kinds.LAWN,
    kinds.TERRACES: kinds.PAVING,
    kinds.TOWERS: kinds.PAVING,
    kinds.WORKS_QUARTER: kinds.CONCRETE,
    kinds.PARKING: kinds.ASPHALT,
}
_PAVEMENTS = (kinds.PAVING, kinds.PAVING, kinds.PAVING, kinds.BRICK, kinds.SETTS, kinds.GRAVEL, kinds.LAWN)
_SURFACES = (
    kinds.ASPHALT,
    kinds.ASPHALT,
    kinds.ASPHALT,
    kinds.ASPHALT,
    kinds.ASPHALT,
    kinds.CONCRETE,
    kinds.SETTS,
    kinds.BRICK,
)
FIRST_YELLOW = 192
"""Marking groups below this are white, the rest yellow; 0 is no marking."""


@dataclass(frozen=True)
class Ground:
    """Layers uint8[640, 640]: material, tone (128 neutral), barrier height in decimetres, marking group."""

    material: NDArray[np.uint8]
    tone: NDArray[np.uint8]
    barrier_dm: NDArray[np.uint8]
    marking: NDArray[np.uint8]


class Canvas:
    """Four paired pictures of one chunk and how world coordinates fall onto them.

    Convention: pixel (0, 0) is the chunk's north-west corner, rows run south, columns east.
    """

    def __init__(self, west_px: int, north_px: int, paved: IntArray) -> None:
        self.paved = paved
        self.corner = np.array([west_px, -north_px])
        size = (CHUNK_PX, CHUNK_PX)
        self.images = [Image.new("L", size, value) for value in (kinds.LAWN, 128, 0, 0)]
        self.material, self.tone, self.barrier, self.marking = (
            ImageDraw.Draw(image) for image in self.images
        )

    def pixels(self, points: FloatArray) -> IntArray:
        """Pixel columns and rows of city points: int64[..., 2]."""
        grid = np.floor(points * (1 / PIXEL_M, -1 / PIXEL_M)).astype(np.int64)
        return np.asarray(grid - self.corner)

    def draw(self, edges: Edges, seed: int, *keys: int) -> FloatArray:
        """`Edges.draw` for the streets of this chunk, drawn again for each that was repaved: float64[N]."""
        drawn = edges.draw(seed, *keys)
        for turn in np.unique(self.paved[self.paved > 0]).tolist():
            drawn = np.where(self.paved == turn, edges.draw(seed + 10_000 * turn, *keys), drawn)
        return drawn

    def fill(self, polygon: FloatArray, material: int, tone: int | None = None) -> None:
        """Paint a polygon of city points float64[N, 2] in one material, with a tone of its own if given."""
        flat = self.pixels(polygon).ravel().tolist()
        self.material.polygon(flat, fill=material)
        if tone is not None:
            self.tone.polygon(flat, fill=tone)

    def line(self, points: FloatArray, material: int, width_m: float) -> None:
        """Paint a polyline of city points float64[N, 2] in one material."""
        flat = self.pixels(points).ravel().tolist()
        self.material.line(flat, fill=material, width=max(1, round(width_m / PIXEL_M)))

    def layers(self) -> list[NDArray[np.uint8]]:
        """Material, tone, barrier height and marking: four arrays uint8[640, 640]."""
        return [np.array(image) for image in self.images]


def paint(
    network: Network, west_m: float, south_m: float, blocks: list[Block], edges: Edges, epoch: int = 0
) -> Ground:
    """The ground of the chunk whose south-west corner is given."""
    corner = round(west_m / PIXEL_M), round((south_m + CHUNK_M) / PIXEL_M)
    canvas = Canvas(*corner, paving_epochs(edges, network.seed, epoch))
    for block in blocks:
        _paint_block(canvas, block)
    for block in blocks:
        for line, material, width_m, height_m in block.lines:
            if height_m > 0:
                _raise_barrier(canvas, line, material, width_m, height_m)
    _paint_river(canvas, network, west_m, south_m)
    _paint_streets(canvas, network, edges)
    _raise_lamps(canvas, network, edges)
    _paint_markings(canvas, network, edges)
    return Ground(*canvas.layers())


def _paint_block(canvas: Canvas, block: Block) -> None:
    canvas.fill(block.outline, _BASE[block.kind], block.tone)
    for polygon, material, tone in block.grounds:
        canvas.fill(polygon, material, tone)
    for line, material, width_m, height_m in block.lines:
        if height_m <= 0:
            canvas.line(line, material, width_m)
    for x, y, half_x, half_y, material in block.ponds:
        box = canvas.pixels(np.array([[x - half_x, y + half_y], [x + half_x, y - half_y]])).ravel().tolist()
        canvas.material.ellipse(box, fill=material)


def _raise_barrier(canvas: Canvas, line: FloatArray, material: int, width_m: float, height_m: float) -> None:
    flat = canvas.pixels(line).ravel().tolist()
    width = max(1, round(width_m / PIXEL_M))
    canvas.material.line(flat, fill=material, width=width)
    canvas.barrier.line(flat, fill=round(height_m * 10), width=width)


def _paint_river(canvas: Canvas, network: Network, west_m: float, south_m: float) -> None:
    """Water and its sandy banks wherever the river's level says so."""
    style, seed = network.style, network.seed
    if not _river_near(network, west_m, south_m):
        return
    level = noise_raster(west_m, south_m, CHUNK_PX, PIXEL_M, 1300, seed + 30)
    level += 0.12 * noise_raster(west_m, south_m, CHUNK_PX, PIXEL_M, 160, seed + 31)
    depth = np.abs(level - style.river_level) - style.river_width
    if depth.min() > 0.002:
        return
    for limit, material in ((0.002, kinds.SOIL), (0.0, kinds.WATER)):
        canvas.material.bitmap((0, 0), Image.fromarray((depth < limit).astype(np.uint8) * 255), fill=material)


def _river_near(network: Network, west_m: float, south_m: float) -> bool:
    """Whether the river may touch a chunk: its level, which no point 8 m away changes by 0.03, comes near enough."""
    along = np.arange(0, CHUNK_M + 1, 16.0)
    return bool(network.river(west_m + along[None, :], south_m + along[:, None]).min() < 0.035)


def _strips(edges: Edges, half_width_m: FloatArray, shift_m: FloatArray | float = 0.0) -> FloatArray:
    """Outlines of bands along the edges, shifted to the left: float64[N, 34, 2]."""
    normals = edges.normals()
    middle = (
        edges.curve + normals * np.broadcast_to(np.asarray(shift_m, np.float64), len(edges))[:, None, None]
    )
    side = normals * half_width_m[:, None, None]
    return np.concatenate([middle + side, (middle - side)[:, ::-1]], 1)


def _discs(canvas: Canvas, edges: Edges, radius_m: FloatArray, material: int) -> None:
    """Round ends, so that streets join at crossings."""
    for end in (0, -1):
        corner = edges.curve[:, end, None] + radius_m[:, None, None] * np.array([[-1, 1], [1, -1]])
        for box in canvas.pixels(corner).reshape(-1, 4).tolist():
            canvas.material.ellipse(box, fill=material)


def _paint_streets(canvas: Canvas, network: Network, edges: Edges) -> None:
    """Pavements, kerbs and carriageways, each street with surfaces of its own."""
    if not len(edges):
        return
    seed, half, pavement = network.seed, edges.half_width_m, network.style.pavement_m
    for side in (-1, 1):
        wide = np.full(len(edges), pavement / 2 + 0.5)
        material = np.asarray(_PAVEMENTS)[(canvas.draw(edges, seed + 26, side) * len(_PAVEMENTS)).astype(int)]
        tone = (92 + 80 * canvas.draw(edges, seed + 27, side)).astype(int)
        _lay(canvas, _strips(edges, wide, side * (half + pavement / 2)), material, tone, clear=True)
    _discs(canvas, edges, half + pavement, kinds.PAVING)
    _lay(canvas, _strips(edges, half + 0.45), np.full(len(edges), kinds.KERB), np.full(len(edges), 128))
    _discs(canvas, edges, half + 0.45, kinds.KERB)
    surface = np.asarray(_SURFACES)[(canvas.draw(edges, seed + 28) * len(_SURFACES)).astype(int)]
    tone = (70 + 116 * canvas.draw(edges, seed + 12)).astype(int)
    _lay(canvas, _strips(edges, half), surface, tone, clear=True)
    _discs(canvas, edges, half, kinds.ASPHALT)
    _paint_lanes(canvas, edges, seed)
    _paint_patches(canvas, edges, seed)


def _lay(
    canvas: Canvas,
    strips: FloatArray,
    material: IntArray,
    tone: IntArray,
    *,
    clear: bool = False,
) -> None:
    """Paint one strip an edge; `clear` removes hedges and fences from it."""
    for strip, surface, shade in zip(strips, material.tolist(), tone.tolist(), strict=True):
        canvas.fill(strip, surface, shade)
        if clear:
            canvas.barrier.polygon(canvas.pixels(strip).ravel().tolist(), fill=0)


def _has_median(edges: Edges, seed: int) -> BoolArray:
    """Mask of the streets with a planted strip in their middle: bool[N]."""
    return np.asarray((edges.half_width_m > 6) & (edges.draw(seed + 29) < 0.45))


def _paint_lanes(canvas: Canvas, edges: Edges, seed: int) -> None:
    """Cycle lanes, parking strips and medians of the streets that have them."""
    half, draw = edges.half_width_m, canvas.draw(edges, seed + 15)
    wide = half > 4
    bands = [
        (wide & (draw < 0.28), 0.75, -(half - 0.95), kinds.CLAY),
        (wide & (draw < 0.2), 0.75, half - 0.95, kinds.CLAY),
        (wide & (draw > 0.62), 1.05, half - 1.1, kinds.SETTS),
        (wide & (draw > 0.8), 1.05, -(half - 1.1), kinds.CONCRETE),
        (_has_median(edges, seed), 1.2, np.zeros(len(edges)), kinds.LAWN),
    ]
    for chosen, width, shift, material in bands:
        if chosen.any():
            some = edges.only(chosen)
            for strip in _strips(some, np.full(len(some), width), shift[chosen]):
                ring = np.concatenate([strip[2 : CURVE_POINTS - 2], strip[CURVE_POINTS + 2 : -2]])
                canvas.fill(ring, material)


def _paint_patches(canvas: Canvas, edges: Edges, seed: int) -> None:
    """Rectangles of newer or older asphalt, up to four an edge."""
    normals = edges.normals()
    for k in range(4):
        chosen = np.nonzero(canvas.draw(edges, seed + 16, k) < 0.6)[0]
        start = 3 + (canvas.draw(edges, seed + 17, k) * 10).astype(int)
        tone = (60 + 130 * canvas.draw(edges, seed + 18, k)).astype(int)
        low, high = np.sort(
            np.stack([canvas.draw(edges, seed + 19, k), canvas.draw(edges, seed + 20, k)]) * 2 - 1, 0
        )
        for n in chosen:
            a, b = edges.curve[n, start[n]], edges.curve[n, start[n] + 1]
            normal = normals[n, start[n]] * edges.half_width_m[n]
            corners = np.stack(
                [a + normal * low[n], b + normal * low[n], b + normal * high[n], a + normal * high[n]]
            )
            canvas.tone.polygon(canvas.pixels(corners).ravel().tolist(), fill=int(tone[n]))


def _raise_lamps(canvas: Canvas, network: Network, edges: Edges) -> None:
    """Lamp posts along one side of most streets."""
    lit = edges.only(edges.draw(network.seed + 23) < 0.7)
    if not len(lit):
        return
    side = np.where(lit.draw(network.seed + 24) < 0.5, -1, 1) * (lit.half_width_m + 0.9)
    feet = (lit.curve + lit.normals() * side[:, None, None])[:, 2:-2:4]
    height = (55 + 30 * lit.draw(network.seed + 25)).astype(int)
    for posts, tall in zip(canvas.pixels(feet), height.tolist(), strict=True):
        canvas.material.point(posts.ravel().tolist(), fill=kinds.KERB)
        canvas.barrier.point(posts.ravel().tolist(), fill=tall)


def _groups(canvas: Canvas, edges: Edges, seed: int, kind: int) -> IntArray:
    """Marking groups, one an edge and kind of mark: what is repainted or lost together. White ones."""
    names = edges.i, edges.j, edges.kind
    pick = hash_array(seed + 21, *names, kind + 10 * canvas.paved)
    return 1 + (pick % (FIRST_YELLOW - 1)).astype(np.int64)


def _paint_markings(canvas: Canvas, network: Network, edges: Edges) -> None:
    """Centre lines, lane lines, edge lines and zebra crossings."""
    seed = network.seed
    normals = edges.normals()
    yellow = canvas.draw(edges, seed + 13) < 0.5
    centre, lane, zebra = (_groups(canvas, edges, seed, kind) for kind in range(3))
    stop, median = canvas.draw(edges, seed + 22), _has_median(edges, seed)
    for n in range(len(edges)):
        half = edges.half_width_m[n]
        curve = np.repeat(edges.curve[n], 2, 0)[1:-1] if half <= 4 else _densify(edges.curve[n])
        length = float(np.hypot(*(edges.curve[n, -1] - edges.curve[n, 0])))
        trim = int(np.ceil(len(curve) * min(0.3, 11.0 / length)))
        inner = curve[trim:-trim]
        if half > 6:
            group = int(centre[n]) % 64 + FIRST_YELLOW if yellow[n] else int(centre[n])
            if not median[n]:
                canvas.marking.line(canvas.pixels(inner).ravel().tolist(), fill=group, width=1)
            side = _densify(normals[n])[trim:-trim] * half * 0.5
            _dashes(canvas, inner + side, int(lane[n]))
            _dashes(canvas, inner - side, int(lane[n]))
        elif half > 4:
            _dashes(canvas, inner, int(centre[n]))
        for end, sign in ((0, 1), (-1, -1)):
            if (stop[n] * (2 if end else 3)) % 1 < 0.5 and half > 3.5:
                _zebra(canvas, inner[end], normals[n, end], sign, half, int(zebra[n]))


def _densify(points: FloatArray) -> FloatArray:
    """Points at twice the rate along a polyline: float64[2 N - 1, 2]."""
    dense = np.empty((2 * len(points) - 1, 2))
    dense[::2] = points
    dense[1::2] = (points[1:] + points[:-1]) / 2
    return dense


def _dashes(canvas: Canvas, points: FloatArray, group: int) -> None:
    pixels = canvas.pixels(points)
    for k in range(0, len(pixels) - 1, 2):
        canvas.marking.line(pixels[k : k + 2].ravel().tolist(), fill=group, width=1)


def _zebra(
    canvas: Canvas, point: FloatArray, normal: FloatArray, sign: int, half_m: float, group: int
) -> None:
    """Bars across the street near its end."""
    along = np.array([normal[1], -normal[0]]) * sign
    for offset in np.arange(-half_m + 0.9, half_m - 0.4, 1.5):
        foot = point + normal * offset
        bar = canvas.pixels(np.stack([foot - along * 3.2, foot - along * 0.6])).ravel().tolist()
        canvas.marking.line(bar, fill=group, width=2)
