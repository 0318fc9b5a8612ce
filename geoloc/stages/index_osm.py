"""An OpenStreetMap extract to a searchable index in one call: map tiles, codes and index, one after the other.

<output>                 the index
<output>-tables/tiles    map tiles with points, every few metres along the streets
<output>-tables/codes    what the model made of them
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.models.card import read_recipe
from geoloc.stages import encode, index_build, ingest_osm
from geoloc.stages.encode import EncodeConfig, EncodeInputs
from geoloc.stages.index_build import IndexConfig, IndexInputs, IndexResult
from geoloc.stages.ingest_osm import OsmTilesConfig, OsmTilesInputs


class OsmIndexConfig(BaseModel):
    """Settings of drawing, encoding and indexing maps; the size of a tile is what the model was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stride_m: float = Field(10.0, gt=0, description="Step between tile centres along streets, metres.")
    gpu: bool = Field(False, description="Run the network on GPUs.")
    shards: int = Field(4, ge=1, le=65_536, description="Shards of the index, built in parallel.")


class OsmIndexInputs(BaseModel):
    """An OSM extract and the model to encode its map tiles with."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    osm: str = Field(description="URI of an OSM extract: .osm, .osm.pbf, .geojson or .parquet.")
    model: str = Field(description="URI of a model directory that was trained on maps.")
    tables: str | None = Field(None, description="URI for the intermediate tables; default: <output>-tables.")


def run(
    config: OsmIndexConfig, inputs: OsmIndexInputs, output: str, *, overwrite: bool = False
) -> IndexResult:
    """Index the map of an extract. Killed halfway and run again, it does what is missing.

    Raises what the stages raise: `InputError` for an extract that cannot be read, `ModelMismatch`, ...
    """
    output, model = storage.absolute(output), storage.absolute(inputs.model)
    work = storage.absolute(inputs.tables or f"{output.rstrip('/')}-tables")
    codes = storage.join(work, "codes")
    recipe = read_recipe(model).model
    ingest_osm.run(
        OsmTilesConfig(tile_m=recipe.tile_m, tile_px=recipe.tile_px, stride_m=config.stride_m),
        OsmTilesInputs(osm=inputs.osm),
        work,
        overwrite=overwrite,
    )
    encode.run(
        EncodeConfig(gpu=config.gpu), EncodeInputs(tiles=work, model=model), codes, overwrite=overwrite
    )
    return index_build.run(
        IndexConfig(shards=config.shards), IndexInputs(codes=codes, model=model), output, overwrite=overwrite
    )
