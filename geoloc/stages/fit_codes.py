"""The stage `fit-codes`: a trained model and a sample in, the same model with another hash encoder out.

The weights stay. Tiles are encoded and indexed with the new model directory, which names the encoder in its recipe, its
card and, from there, in the manifest of an index. The sample is encoded in this process: it is small.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.arrays import Float32Array
from geoloc.core.errors import ConfigError, InputError
from geoloc.core.fingerprint import begin_output, fingerprint_of
from geoloc.core.progress import say
from geoloc.models.built_in import model_location
from geoloc.models.card import CARD_NAME, ModelCard, read_card
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.hash_encoders.encoder import FitSample, HashEncoder
from geoloc.models.store import load_model, load_weights, save_model, weights_of
from geoloc.recipe.model import HashEncoderSection
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.registry import registered
from geoloc.stages.encode import columns_of, decode_tile, encode_decoded, tiles_table
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import encode_tiles, load_pairs

_VERSION = 1
_BATCH = 64


class FitCodesConfig(BaseModel):
    """Which encoder is fitted, and on how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(
        "itq",
        description="Kind of the hash encoder: itq, random, contrastive, two_stage, or that of an extension.",
    )
    bits: int = Field(256, ge=8, le=4096, multiple_of=8, description="Bits of the longest code.")
    prefixes: tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...] = Field(
        (),
        description="Shorter lengths that itq and contrastive keep usable as the first bits of a code; default: none "
        "for itq, 64, 128 and 256 for contrastive.",
    )
    hidden: int | None = Field(
        None, ge=1, description="Hidden channels of two_stage; default: the paper's 8192."
    )
    epochs: int | None = Field(None, ge=1, description="Epochs of two_stage; default: the paper's 10.")
    steps: int | None = Field(
        None, ge=0, description="Optimizer steps of contrastive; 0: its start alone; default: 300."
    )
    sample: int = Field(10_000, ge=64, description="Tiles to fit on, drawn at random.")
    seed: int = Field(1, description="Of the sample and of the fit.")


class FitCodesInputs(BaseModel):
    """A model, and tiles or pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="URI of a model directory; builtin: the one that ships with geoloc.")
    tiles: str = Field(
        description="URI of a tiles table like those to be indexed, or of an ingest output that holds one. "
        "contrastive and two_stage learn from the pairs of the ingest output; give pairs that the model was not "
        "trained on."
    )


class FitCodesResult(BaseModel):
    """The model with its new encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_uri: str
    model_id: str
    encoder: str
    bits: int
    nested: bool
    fitted_on: int
    reused: bool


def run(
    config: FitCodesConfig, inputs: FitCodesInputs, output: str, *, overwrite: bool = False
) -> FitCodesResult:
    """Fit a hash encoder on a sample of tiles and write the model with it into the directory `output`.

    Raises `ConfigError` for a length that the encoder cannot have, `InputError` for a sample that is too small or
    has no pairs, and what `load_model` raises.
    """
    output, model_uri = storage.absolute(output), model_location(inputs.model)
    section = _section(config)
    tiles = storage.absolute(inputs.tiles)
    tables = [storage.join(tiles, kind) for kind in ("tiles", "queries", "pairs")]
    if not section.paired:
        tables = [tiles_table(tiles)]
    checksums = [part_table.read_manifest(uri).checksums for uri in tables]
    card = read_card(model_uri)
    content = ["fit-codes", _VERSION, card.model_id, config.model_dump(mode="json"), *checksums]
    with begin_output(
        output, fingerprint_of(content), record=CARD_NAME, what="a model", overwrite=overwrite, shared=True
    ) as done:
        if done is not None:
            return _result(output, read_card(output), fitted_on=0, reused=True)
        encoder = Encoder.open(model_uri)
        sample = _pairs(encoder, tiles, config) if section.paired else _tiles(encoder, tiles, config)
        say(f"fit-codes: {config.kind} of {config.bits} bits on {len(sample.tiles):,} tiles")
        fitted = section.network.fit(section, config.bits, sample)
        written = _save(model_uri, fitted, output, fingerprint_of(content))
    return _result(output, written, fitted_on=len(sample.tiles), reused=False)


def _section(config: FitCodesConfig) -> HashEncoderSection:
    """The section of a recipe that the flags choose; `ConfigError` for an unknown kind and a flag that it lacks."""
    kinds = registered(HashEncoderSection)
    if config.kind not in kinds:
        raise ConfigError(
            f"kind is {config.kind!r}; give a hash encoder that is fitted: {', '.join(sorted(kinds))}."
        )
    if max(config.prefixes, default=0) > config.bits:
        raise ConfigError(
            f"prefixes has {max(config.prefixes)}, which is longer than the code of {config.bits} bits; leave it out."
        )
    part = kinds[config.kind]
    given: dict[str, Any] = {
        name: value
        for name, value in (
            ("prefixes", config.prefixes or None),
            ("hidden", config.hidden),
            ("epochs", config.epochs),
            ("steps", config.steps),
        )
        if value is not None
    }
    for name in given:
        if name not in part.model_fields:
            raise ConfigError(f"The hash encoder {config.kind!r} has no {name}; leave the flag out.")
    return part.model_validate({**given, **({"seed": config.seed} if "seed" in part.model_fields else {})})


def _tiles(encoder: Encoder, uri: str, config: FitCodesConfig) -> FitSample:
    """Embeddings of a random sample of a tiles table, one part of it in memory at a time."""
    table = tiles_table(uri)
    rows = part_table.read_manifest(table, kind="tiles").rows
    chosen = np.random.default_rng(config.seed).permutation(rows)[: config.sample]
    wanted, start = np.sort(chosen), 0
    embeddings: list[Float32Array] = []
    for part in part_table.iterate(table, kind="tiles", columns=columns_of(encoder)):
        inside = wanted[(wanted >= start) & (wanted < start + part.num_rows)] - start
        embeddings += _embedded(encoder, part.take(pa.array(inside)))
        start += part.num_rows
    if not embeddings:
        raise InputError(
            f"The tiles table {table!r} has no rows; ingest some tiles first.", reason="no_tiles"
        )
    sample = np.concatenate(embeddings)
    if missing := len(wanted) - len(sample):
        say(
            f"fit-codes: {missing:,} of {len(wanted):,} tiles of the sample cannot be decoded and are left out"
        )
    return FitSample(sample)


def _embedded(encoder: Encoder, rows: pa.Table) -> list[Float32Array]:
    """Embeddings float32[n, D] of rows of a tiles table, batch by batch; tiles that cannot be decoded are left out."""
    batches = []
    for batch in rows.to_batches(max_chunksize=_BATCH):
        tiles = []
        for row in range(batch.num_rows):
            try:
                tiles.append(decode_tile(encoder, batch, row))
            except InputError:
                continue  # counted by the caller; `encode` quarantines it
        if tiles:
            batches.append(encode_decoded(encoder, tiles).embedding)
    return batches


def _pairs(encoder: Encoder, uri: str, config: FitCodesConfig) -> FitSample:
    """Embeddings of a random sample of the pairs of an ingest output."""
    index = read_index(uri)
    chosen = np.random.default_rng(config.seed).permutation(len(index))[: config.sample]
    store = load_pairs(uri, index.take(np.sort(chosen)), encoder.recipe)
    tiles = encode_tiles(encoder, store)
    photos = encoder.encode(store.panoramas, "panorama")
    recipe = encoder.recipe.model
    columns = recipe.columns if recipe.turns_by_rolling and recipe.view.azimuth_columns else 1
    return FitSample(tiles.embedding, photos.embedding, store.tile_of, columns)


def _save(model_uri: str, fitted: HashEncoder, output: str, fingerprint: str) -> ModelCard:
    """Write the model with the fitted encoder in place of the head that was trained with it."""
    model, recipe, _ = load_model(model_uri)
    codes = recipe.model.hash.model_copy(
        update={
            "bits": fitted.bits,
            "prefixes": (*getattr(fitted.section, "prefixes", ()), fitted.bits),
            "layout": None,
            "encoder": fitted.section,
        }
    )
    changed = Recipe.model_validate(
        recipe.model_copy(update={"model": recipe.model.model_copy(update={"hash": codes})}).model_dump(
            mode="json", exclude_none=True
        )
    )
    without_head = GeoLocalizer(changed.model)
    weights = {name: value for name, value in weights_of(model).items() if not name.startswith("hash.")}
    load_weights(without_head, weights, where=model_uri)
    return save_model(without_head, changed, output, fingerprint=fingerprint, hash_encoder=fitted)


def _result(output: str, card: ModelCard, *, fitted_on: int, reused: bool) -> FitCodesResult:
    codes = card.hash_encoder
    assert codes is not None  # this stage writes it
    return FitCodesResult(
        model_uri=output,
        model_id=card.model_id,
        encoder=codes.name,
        bits=codes.bits,
        nested=codes.nested,
        fitted_on=fitted_on,
        reused=reused,
    )
