"""A user's own imagery to a searchable index in one call: cut and encode, then index.

<output>                 the index
<output>-tables/codes    what the model made of the imagery, with quarantine/
<output>-tables/tiles    pictures of the tiles, only with `keep_tiles`
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.index.build.partition_keys import Partition
from geoloc.models.built_in import BUILT_IN, model_location
from geoloc.models.card import RECIPE_NAME, read_card
from geoloc.recipe.recipe import Recipe
from geoloc.sources.sheets import Order
from geoloc.stages import encode, encode_imagery, index_build, ingest
from geoloc.stages.encode import EncodeConfig, EncodeInputs
from geoloc.stages.encode_imagery import ImageryEncodeConfig, ImageryEncodeInputs
from geoloc.stages.index_build import IndexConfig, IndexInputs, IndexResult
from geoloc.stages.ingest import IngestConfig, IngestInputs

_INGEST_DEFAULTS = IngestConfig()


class ImageryIndexConfig(BaseModel):
    """Settings of cutting, encoding and indexing imagery; the size of a tile is what the model was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stride_m: float = Field(
        10.0,
        gt=0,
        description="Step between tile centres, metres. A smaller step locates more precisely and makes a "
        "larger index.",
    )
    max_nodata_share: float = Field(
        _INGEST_DEFAULTS.max_nodata_share,
        ge=0,
        lt=1,
        description="Tiles with a larger share of holes than this are left out.",
    )
    scale: tuple[float, float] | None = Field(
        None,
        description="Pixel values that become black and white, for imagery that is not 8-bit; 8-bit sheets are not "
        "changed.",
    )
    bands: tuple[int, int, int] | None = Field(
        None,
        description="Numbers of the bands that are red, green and blue, in sheets with that many bands; default: "
        "as the file says.",
    )
    nodata: float | None = Field(
        None,
        description="Value of pixels that show nothing, in all colour bands, beside what sheets declare themselves.",
    )
    order: Order = Field(
        "name",
        description="Which of overlapping sheets is on top: the first by name, or the newest by time "
        "(TIFFTAG_DATETIME, else the file's).",
    )
    keep_tiles: bool = Field(
        False,
        description="Store the tiles' pictures as a table too, for `geoloc serve --imagery`, pairs and reports; about "
        "10 kB a tile.",
    )
    gpu: bool = Field(False, description="Run the network on GPUs.")
    shards: int = Field(4, ge=1, le=65_536, description="Shards of the index, built in parallel.")
    partition: Partition = Field(
        "space",
        description="How tiles are divided: 'space' puts neighbours into one shard; 'even' gives all shards "
        "tiles from everywhere.",
    )


class ImageryIndexInputs(BaseModel):
    """Imagery and the model to encode it with."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    imagery: list[str] = Field(
        description="URIs of GeoTIFF files with a CRS, of directories of them, or globs."
    )
    model: str = Field(
        BUILT_IN,
        description="URI of a model directory; an index carries one in <index>/model/. Default: the one that ships "
        "with geoloc.",
    )
    tables: str | None = Field(None, description="URI for the intermediate tables; default: <output>-tables.")


def run(
    config: ImageryIndexConfig, inputs: ImageryIndexInputs, output: str, *, overwrite: bool = False
) -> IndexResult:
    """Index all imagery. Killed halfway and run again, it does what is missing.

    Raises what the stages raise: `InputError` for imagery without a CRS, `ModelMismatch`, `TooManyBadRows`, ...
    """
    output, model = storage.absolute(output), model_location(inputs.model)
    work = storage.absolute(inputs.tables or f"{output.rstrip('/')}-tables")
    codes = storage.join(work, "codes")
    tiles, encoding = _ingest_config(config, model), EncodeConfig(gpu=config.gpu)
    if config.keep_tiles:
        ingest.run(tiles, IngestInputs(imagery=inputs.imagery), work, overwrite=overwrite)
        encode.run(encoding, EncodeInputs(tiles=work, model=model), codes, overwrite=overwrite)
    else:
        encode_imagery.run(
            ImageryEncodeConfig(tiles=tiles, encode=encoding),
            ImageryEncodeInputs(imagery=inputs.imagery, model=model),
            codes,
            overwrite=overwrite,
        )
    return index_build.run(
        IndexConfig(shards=config.shards, partition=config.partition),
        IndexInputs(codes=codes, model=model),
        output,
        overwrite=overwrite,
    )


def _ingest_config(config: ImageryIndexConfig, model: str) -> IngestConfig:
    read_card(model)  # says what is wrong where there is no finished model
    recipe = Recipe.load(storage.join(model, RECIPE_NAME)).model
    settings = config.model_dump(
        include={"stride_m", "max_nodata_share", "scale", "bands", "nodata", "order"}
    )
    return IngestConfig(tile_m=recipe.tile_m, tile_px=recipe.tile_px, **settings)
