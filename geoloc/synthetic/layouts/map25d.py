"""The ground-to-2.5D map data: panoramas of street graphs, map tiles, and one semantic point cloud a city.

    csv/<area>.csv          panoid,lat,lon,heading,city           csv/<area>_xy.csv   panoid,x,y,heading,city
    csv/<area>_set.csv      city,number of the map tile           (no headers; the three row by row together)
    <city>/<city>U.npy      float32[P, 3]: x, height, z           <city>/<city>U.csv  one class a line
    <area>_idx/<panoid>.npy     int64 rows of the cloud within 114 m along both axes
    jpegs_<city>_2019/<panoid>.jpg          832 x 1664, the centre column looks along the heading
    tiles_<city>_2019/z18/<number>.png      256 x 256 map tile of 152 m, north up
    graphs/<area>.csv, routes/<area>.csv    ours: neighbours of every panorama, and routes through them

Local metres are a spherical transverse Mercator about the city's origin, as in the published files; for that the
cities lie at the very places whose names they bear. y of the csv files and z of the cloud are stored NEGATED: they
grow to the south. Where the original has `<area>.pickle`, nothing is written: a pickle can run code, and all that
it held follows from the csv files. Areas stand apart so that no panorama of one sees what one of another sees.

Facts of the layout: Zhou, Liu, Zhong, Calway, arXiv 2308.05993; csv files checked against the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse.csgraph import breadth_first_order

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import ConfigError
from geoloc.geometry.street_graph import StreetGraph
from geoloc.synthetic.layouts.cities import STYLES, city_seed
from geoloc.synthetic.layouts.placement import sphere_at
from geoloc.synthetic.layouts.spread import GAP_M, grow
from geoloc.synthetic.layouts.view_images import (
    MAP,
    PANORAMA,
    CitySource,
    Export,
    Picture,
    PointCloud,
    csv_bytes,
    masked_name,
)
from geoloc.synthetic.world.network import Bounds, Network
from geoloc.synthetic.world.noise import hash_array
from geoloc.synthetic.world.routes import random_routes, street_graph

TILE_PX = 256
TILE_M = 152.0
PANORAMA_HEIGHT_PX = 832
CLOUD_HALF_M = 114.0
POINTS_PER_M2 = 0.1
_ORIGINS = {"manhattan": (40.7424436, -73.9816155), "pittsburgh": (40.4425, -79.9825)}
_STYLES = {"manhattan": "grid", "pittsburgh": "plain"}
_NODES_PER_KM2 = 1400.0
_ROUTES, _STEPS = 500, 40


@dataclass(frozen=True)
class AreaName:
    """One district of the data set: the name of its files, its city and its published panoramas."""

    name: str
    city: str
    published: int


AREAS = (
    AreaName("unionsquare5kU", "manhattan", 5_000), AreaName("wallstreet5kU", "manhattan", 5_000),
    AreaName("hudsonriver5kU", "manhattan", 5_000), AreaName("trainstreetlearnU", "manhattan", 40_760),
    AreaName("cmu5kU", "pittsburgh", 5_000), AreaName("trainstreetlearnU", "pittsburgh", 53_007),
)  # fmt: skip
_JOINED = "trainstreetlearnU_cmu5kU"


@dataclass(frozen=True)
class MapSpec:
    """panoramas: of each of `AREAS`, in their order; tile_px and panorama_height_px: sizes of the pictures."""

    seed: int = 7
    panoramas: tuple[int, ...] = tuple(area.published for area in AREAS)
    tile_px: int = TILE_PX
    panorama_height_px: int = PANORAMA_HEIGHT_PX
    photo_epoch: int = 0


@dataclass(frozen=True)
class Nodes:
    """The panoramas of one area, in the order of their names.

    lat, lon, heading_deg (true): float64[N]; tile: int64[N]; x, y: city metres; graph: nodes in the same order.
    """

    area: AreaName
    bounds: Bounds
    names: list[str]
    lat: FloatArray
    lon: FloatArray
    x: FloatArray
    y: FloatArray
    heading_deg: FloatArray
    tile: IntArray
    graph: StreetGraph


def plan(spec: MapSpec) -> Export:
    """All pictures, csv files and clouds of the 2.5D data set."""
    names = list(_ORIGINS)
    cities = [
        CitySource(name, city_seed(spec.seed, 40 + k), STYLES[_STYLES[name]], sphere_at(*_ORIGINS[name]))
        for k, name in enumerate(names)
    ]
    nodes: list[Nodes] = []
    west = dict.fromkeys(names, 0.0)
    for number, (area, count) in enumerate(zip(AREAS, spec.panoramas, strict=True)):
        source = cities[names.index(area.city)]
        made = _area(spec.seed, source, area, number, count, west[area.city])
        west[area.city] = made.bounds[2] + GAP_M
        nodes.append(made)
    nodes = _number_tiles(spec.seed, nodes)
    files: dict[str, bytes] = {}
    for name in dict.fromkeys(area.name for area in AREAS):
        files |= _area_files(name, [n for n in nodes if n.area.name == name])
    files |= _lists(_JOINED, [n for n in nodes if n.area.name in _JOINED.split("_")])
    pictures = [p for n in nodes for p in _pictures(spec, names.index(n.area.city), n)]
    clouds = [_cloud(k, name, [n for n in nodes if n.area.city == name]) for k, name in enumerate(names)]
    details = {
        "origins": {name: list(origin) for name, origin in _ORIGINS.items()},
        "pickle": "never written",
    }
    return Export("map25d", cities, pictures, files, clouds, details)


def _area(seed: int, source: CitySource, area: AreaName, number: int, count: int, west: float) -> Nodes:
    """A square of a city whose streets hold so many connected nodes, the ones nearest to its middle."""
    network = Network(source.seed, source.style)

    def find(bounds: Bounds) -> StreetGraph:
        return _central(street_graph(network, bounds).largest_part(), bounds, count)

    bounds, graph = grow(west, 0.0, count / _NODES_PER_KM2, find)
    names = np.array([masked_name(22, seed, 25, number, k) for k in range(count)])
    order = np.argsort(names, kind="stable")
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    links = np.unique(np.sort(rank[graph.links], axis=1), axis=0)
    lat, lon = (np.round(v, 8) for v in source.placement.to_latlon(graph.x[order], graph.y[order]))
    x, y = source.placement.from_latlon(lat, lon)
    turn = source.placement.convergence_deg(x, y)
    heading = np.rint(graph.yaw_deg[order] + turn) % 360
    ordered = StreetGraph(x, y, (heading - turn) % 360, links)
    return Nodes(
        area, bounds, names[order].tolist(), lat, lon, x, y, heading, np.zeros(count, np.int64), ordered
    )  # fmt: skip


def _central(graph: StreetGraph, bounds: Bounds, count: int) -> StreetGraph:
    """`count` connected nodes, found by walking outwards from the middle."""
    if len(graph) < count:
        raise ConfigError(f"Only {len(graph)} of {count} panoramas fit on connected streets; ask for fewer.")
    middle = np.hypot(graph.x - (bounds[0] + bounds[2]) / 2, graph.y - (bounds[1] + bounds[3]) / 2)
    reached = breadth_first_order(graph.matrix, int(np.argmin(middle)), directed=False)[0]
    keep = np.zeros(len(graph), bool)
    keep[reached[:count]] = True
    return graph.only(keep)


def _number_tiles(seed: int, nodes: list[Nodes]) -> list[Nodes]:
    """Give every panorama of a city its map tile, numbered in an order that says nothing."""
    numbered = []
    taken = dict.fromkeys(_ORIGINS, 0)
    total = {city: sum(len(n.names) for n in nodes if n.area.city == city) for city in _ORIGINS}
    shuffled = {
        city: np.argsort(hash_array(seed + 910, np.arange(total[city]), k), kind="stable")
        for k, city in enumerate(_ORIGINS)
    }
    for area in nodes:
        first = taken[area.area.city]
        taken[area.area.city] = last = first + len(area.names)
        numbered.append(replace(area, tile=shuffled[area.area.city][first:last]))
    return numbered


def _lists(name: str, nodes: list[Nodes]) -> dict[str, bytes]:
    """The three csv files of an area."""
    rows: dict[str, list[tuple[str, ...]]] = {"": [], "_xy": [], "_set": []}
    for part in nodes:
        city = part.area.city
        for k, panoid in enumerate(part.names):
            heading = repr(float(part.heading_deg[k]))
            rows[""].append((panoid, repr(float(part.lat[k])), repr(float(part.lon[k])), heading, city))
            rows["_xy"].append((panoid, repr(float(part.x[k])), repr(-float(part.y[k])), heading, city))
            rows["_set"].append((city, str(part.tile[k])))
    return {f"csv/{name}{ending}.csv": csv_bytes(lines) for ending, lines in rows.items()}


def _area_files(name: str, nodes: list[Nodes]) -> dict[str, bytes]:
    """The csv files of an area, its graph and its routes."""
    graph: list[tuple[object, ...]] = [("panoid", "yaw_deg", "neighbours")]
    routes: list[tuple[object, ...]] = [("route_id", "step", "panoid")]
    for part in nodes:
        for k, panoid in enumerate(part.names):
            beside = ";".join(part.names[n] for n in part.graph.neighbours(k))
            graph.append((panoid, f"{part.heading_deg[k]:.1f}", beside))
        for walk in _walks(part):
            number = f"{name}-{part.area.city}-{walk[0]:05d}"
            routes += [(number, step, part.names[node]) for step, node in enumerate(walk[1])]
    return _lists(name, nodes) | {
        f"graphs/{name}.csv": csv_bytes(graph), f"routes/{name}.csv": csv_bytes(routes),
    }  # fmt: skip


def _walks(part: Nodes) -> list[tuple[int, list[int]]]:
    """Numbered routes of an area: 500 of 40 nodes; of small areas fewer and shorter ones."""
    steps = min(_STEPS, len(part.names))
    while steps > 1:
        try:
            walks = random_routes(part.graph, min(_ROUTES, len(part.names)), steps, seed=len(part.names))
        except ConfigError:
            steps //= 2
        else:
            return list(enumerate(walks.tolist()))
    return []


def _pictures(spec: MapSpec, city: int, nodes: Nodes) -> list[Picture]:
    name, height = nodes.area.city, spec.panorama_height_px
    made = []
    for k, panoid in enumerate(nodes.names):
        x, y, tile = float(nodes.x[k]), float(nodes.y[k]), int(nodes.tile[k])
        made.append(Picture(
            f"jpegs_{name}_2019/{panoid}.jpg", PANORAMA, city, x, y, 2 * height, height, key=(6, city, tile),
            heading_deg=float(nodes.graph.yaw_deg[k]), altitude_m=2.0, fov_deg=360.0, top_deg=90.0,
            bottom_deg=-90.0, split=nodes.area.name, place=panoid, epoch=spec.photo_epoch,
        ))  # fmt: skip
        made.append(Picture(
            f"tiles_{name}_2019/z18/{tile:05d}.png", MAP, city, x, y, spec.tile_px, spec.tile_px, side_m=TILE_M,
            split=nodes.area.name, place=panoid,
        ))  # fmt: skip
    return made


def _cloud(city: int, name: str, nodes: list[Nodes]) -> PointCloud:
    """The cloud under all areas of a city, and the index array of every panorama."""
    margin = CLOUD_HALF_M
    areas = [
        (
            float(n.x.min()) - margin,
            float(n.y.min()) - margin,
            float(n.x.max()) + margin,
            float(n.y.max()) + margin,
        )
        for n in nodes
    ]
    places = [
        (f"{n.area.name}_idx/{panoid}.npy", float(n.x[k]), float(n.y[k]))
        for n in nodes
        for k, panoid in enumerate(n.names)
    ]
    return PointCloud(
        city, f"{name}/{name}U.npy", f"{name}/{name}U.csv", areas, POINTS_PER_M2, margin, places
    )
