"""Stage `codes`: which hash encoder, how many bits and which comparison, tried on the user's own photos and tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.arrays import Codes, Float32Array
from geoloc.core.errors import ConfigError, InputError
from geoloc.core.fingerprint import begin_output, fingerprint_of
from geoloc.core.progress import say
from geoloc.evaluation.protocol.protocols import DEFAULT, PHOTOS_TO_TILES, find_protocol
from geoloc.evaluation.protocol.questions import build_questions
from geoloc.evaluation.ranking.code_trials import CodeTrial, TrialData, floats, try_codes, try_faiss
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.evaluation.ranking.photos_and_tiles import photo_set, tile_set
from geoloc.evaluation.ranking.ranks import TruthTable
from geoloc.index.build.shard_plan import tile_bytes
from geoloc.index.search.snapshot import Snapshot
from geoloc.models.encoder import Encoder
from geoloc.models.hash_encoders.encoder import EncoderCard, FitSample, HashEncoder
from geoloc.recipe.model import HashEncoderSection
from geoloc.recipe.registry import registered
from geoloc.stages.encode_queries import encode_queries

RECORD_NAME = "codes.json"
_VERSION = 2
_BLOCK = 8192
_SAMPLE = 10_000  # tiles that encoders are fitted on, as many as `fit-codes` takes
_GIB = 2**30
# What an index can be built for; the other trials are there to compare with.
_BUILDABLE = ("codes", "asymmetric", "asymmetric + float16")


class CodesConfig(BaseModel):
    """What is tried, and for which index an advice is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: tuple[int, ...] = Field((64, 128, 256, 512), description="Code lengths to try.")
    photos: int = Field(1000, ge=1, description="Photos to try at most, spread evenly over the table.")
    truth_radius_m: float = Field(
        25.0, gt=0, description="Tiles within this distance are right without pairs; metres."
    )
    tiles: int = Field(1_000_000, ge=1, description="Tiles of the index that you plan.")
    memory_gib: float = Field(4.0, gt=0, description="Memory for that index, GiB.")
    faiss: bool = Field(True, description="Try FAISS's PQ and RaBitQ beside.")


class CodesInputs(BaseModel):
    """Photos and tiles to try on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of an index that keeps embeddings.")
    queries: str = Field(
        description="URI of an ingest output with queries/ and, where there are any, pairs/."
    )
    encoded: str | None = Field(
        None,
        description="URI of encoded queries that evaluations share; written when missing. Default: in the output.",
    )
    snapshot_id: str | None = Field(None, description="Id of the snapshot; default: the current one.")


class Advice(BaseModel):
    """The trial with the best recall among those that fit the memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: CodeTrial
    bytes_per_tile: float = Field(description="In the index, with ids, places and spatial order.")
    total_bytes: int


class CodesResult(BaseModel):
    """All trials, the floats first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    fingerprint: str
    reused: bool
    photos: int
    tiles: int
    planned_tiles: int
    memory_gib: float
    trials: list[CodeTrial]
    model_encoder: EncoderCard = Field(
        description="The hash encoder of the index's model; others are fitted."
    )
    advice: Advice | None

    def text(self) -> str:
        """A table of the trials and the advice."""
        head = f"{'encoder':<12} {'bits':>5}  {'method':<22} {'R@1':>6} {'R@5':>6} {'R@10':>6} {'in 100':>7}"
        lines = [
            f"{self.photos:,} photos, {self.tiles:,} tiles; percent; in 100: the best tile by floats is listed",
            f"{head} {'bytes':>7} {'ms':>7}",
        ]
        for trial in self.trials:
            shown = " ".join(f"{value:6.1f}" for value in trial.recall.values())
            spent = "-" if trial.scan_ms is None else f"{trial.scan_ms:.1f}"
            lines.append(
                f"{trial.encoder:<12} {trial.bits or '':>5}  {trial.method:<22} {shown} "
                f"{trial.float_best_in_100:7.1f} {trial.bytes_per_tile:7.0f} {spent:>7}"
            )
        lines += ["bytes: compared, a tile; ms: a query on one core for a million tiles", self._advice()]
        return "\n".join(lines)

    def _advice(self) -> str:
        where = f"{self.planned_tiles:,} tiles in {self.memory_gib:g} GiB"
        if self.advice is None:
            return f"Nothing that was tried fits {where}: take fewer tiles or more memory."
        trial = self.advice.trial
        return (
            f"For {where}: encoder {trial.encoder}, {trial.bits} bits, {trial.method} "
            f"({self.advice.bytes_per_tile:.0f} bytes a tile with its id and place, "
            f"{self.advice.total_bytes / _GIB:.2f} GiB in all; R@1 {trial.recall['R@1']:.1f} %)."
            + self._how_to_fit(trial)
        )

    def _how_to_fit(self, trial: CodeTrial) -> str:
        if trial.encoder == self.model_encoder.name and _has_length(self.model_encoder, trial.bits):
            return ""
        fit = f"geoloc fit-codes --kind {trial.encoder} --bits {trial.bits}"
        return (
            f"\nThe model lacks this encoder: run `{fit}`, then encode and index the tiles with its output."
        )


def run(config: CodesConfig, inputs: CodesInputs, output: str, *, overwrite: bool = False) -> CodesResult:
    """Try encoders, code lengths and comparisons on photos and tiles of known place, and write `codes.json`.

    Encoders are that of the model, at lengths that it has, and every kind that is fitted on tiles alone, fitted on a
    sample of these. Photos of unknown heading are left out. The driver holds the tiles' embeddings.
    Raises `ConfigError` for lengths beyond the model's, `InputError` without photos of known heading and place, or
    without embeddings.
    """
    output, index, queries = (storage.absolute(uri) for uri in (output, inputs.index, inputs.queries))
    snapshot = Snapshot.open(index, inputs.snapshot_id)
    source = part_table.read_manifest(storage.join(queries, "queries"), kind="queries")
    settings = config.model_dump()
    fingerprint = fingerprint_of(["codes", _VERSION, settings, snapshot.snapshot_id, source.checksums])
    with begin_output(
        output, fingerprint, record=RECORD_NAME, what="trials of codes", overwrite=overwrite, shared=True
    ) as record:
        if record:
            return CodesResult.model_validate_json(record).model_copy(update={"reused": True})
        encoded = storage.absolute(inputs.encoded) if inputs.encoded else storage.join(output, "encoded")
        encoder = Encoder.open(snapshot.model_uri)
        _check_lengths(config, encoder.bits)
        encode_queries(storage.join(queries, "queries"), snapshot.shared_model_uri, encoded, headings=32)
        data = _data(config, snapshot, EncodedTable(encoded), _pairs(queries))
        say(f"codes: {len(data.photos):,} photos, {len(data.tiles):,} tiles")
        trials = [floats(data), *_trials(config, encoder, data)]
        result = CodesResult(
            output=output,
            fingerprint=fingerprint,
            reused=False,
            photos=len(data.photos),
            tiles=len(data.tiles),
            planned_tiles=config.tiles,
            memory_gib=config.memory_gib,
            trials=trials,
            model_encoder=encoder.hash_encoder.card,
            advice=advise(trials, config.tiles, config.memory_gib * _GIB, data.photos.shape[1]),
        )
        storage.write_bytes(storage.join(output, RECORD_NAME), result.model_dump_json(indent=1).encode())
    return result


def advise(trials: list[CodeTrial], tiles: int, memory_bytes: float, dim: int) -> Advice | None:
    """The best R@1 among the trials that an index of so many tiles can be built for within the memory.

    Of equal ones it takes that of fewer bytes. None where nothing fits.
    """
    best: Advice | None = None
    for trial in trials:
        if trial.method not in _BUILDABLE:
            continue
        each = tile_bytes(trial.bits, dim if trial.method.endswith("float16") else None, 0)
        advice = Advice(trial=trial, bytes_per_tile=each, total_bytes=int(each * tiles))
        if advice.total_bytes <= memory_bytes and (best is None or _rank(advice) > _rank(best)):
            best = advice
    return best


def _rank(advice: Advice) -> tuple[float, float]:
    return advice.trial.recall["R@1"], -advice.bytes_per_tile


def _pairs(queries: str) -> pa.Table | None:
    uri = storage.join(queries, "pairs")
    if not storage.exists(storage.join(uri, part_table.MANIFEST_NAME)):
        return None
    return part_table.read(uri, kind="pairs", columns=["query_id", "tile_id", "relation"])


def _data(
    config: CodesConfig, snapshot: Snapshot, encoded: EncodedTable, pairs: pa.Table | None
) -> TrialData:
    """Photos of known heading and all tiles that were not removed, with the right ones."""
    if snapshot.embedding_dim is None:
        raise InputError(
            "This index keeps no embeddings, and codes are tried on embeddings; give one that was built with them.",
            reason="no_embeddings",
        )
    photos, tiles = photo_set(encoded, None, snapshot.bits), tile_set(snapshot, None)
    protocol = find_protocol(DEFAULT)
    right = build_questions(
        protocol, PHOTOS_TO_TILES, photos, tiles, pairs, radius_m=config.truth_radius_m
    ).right
    vectors = np.zeros((len(photos), snapshot.embedding_dim), np.float32)
    usable = np.zeros(len(photos), np.bool_)
    for rows, group in encoded.groups():
        if group.heading_known and not group.limited.any():
            vectors[rows], usable[rows] = group.embedding[:, 0], True
    usable &= right.counts(len(photos)) > 0
    chosen = np.flatnonzero(usable)
    if not len(chosen):
        raise InputError(
            "No photo has a known heading, a whole view and a right tile among the tiles of the index.",
            reason="no_queries",
        )
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(config.photos, len(chosen))).astype(np.int64)]
    kept = np.arange(len(tiles)) if tiles.removed is None else np.flatnonzero(~tiles.removed)
    ids = np.array(tiles.ids.to_pylist(), dtype=object)
    order = kept[np.argsort(ids[kept], kind="stable")]  # str compares code points, as UTF-8 bytes do
    place, number = np.full(len(tiles), -1, np.int64), np.full(len(photos), -1, np.int64)
    place[order], number[chosen] = np.arange(len(order)), np.arange(len(chosen))
    inside = number[right.query] >= 0
    truth = TruthTable(number[right.query[inside]], place[right.tile[inside]])
    return TrialData.of(vectors[chosen], snapshot.embeddings_of(order), truth)


def _check_lengths(config: CodesConfig, longest: int) -> None:
    """`ConfigError` for lengths beyond those of the model, before anything is encoded."""
    wrong = [bits for bits in config.bits if bits % 8 or not 8 <= bits <= longest]
    if wrong or not config.bits:
        raise ConfigError(
            f"bits has {list(wrong)}; give multiples of 8 up to {longest}, the longest code of the model."
        )


def _trials(config: CodesConfig, encoder: Encoder, data: TrialData) -> Iterator[CodeTrial]:
    """Trials of every encoder at every length: that of the model, and those that can be fitted on the tiles."""
    own = encoder.hash_encoder
    photos, tiles = _encoded(own, data)
    sample = _sample(data)
    for bits in sorted(config.bits):
        say(f"codes: {bits} bits")
        known = _has_length(own.card, bits)
        if known:
            yield from try_codes(
                data, own.name, photos[:, :bits], np.ascontiguousarray(tiles[:, : bits // 8])
            )
        for kind, part in sorted(registered(HashEncoderSection).items()):
            if part.paired or (known and kind == own.name):
                continue
            try:
                fitted: HashEncoder = part.network.fit(part.model_validate({}), bits, sample)
            except (ConfigError, InputError) as error:
                say(f"codes: {kind} of {bits} bits is left out: {error}")
                continue
            yield from try_codes(data, kind, *_encoded(fitted, data))
        if config.faiss:
            yield from try_faiss(data, bits)


def _has_length(encoder: EncoderCard, bits: int) -> bool:
    """Whether an encoder's first bits are a code of this length."""
    return bits == encoder.bits or (encoder.nested and bits < encoder.bits)


def _sample(data: TrialData) -> FitSample:
    """Tiles to fit encoders on, spread evenly over the table, scaled to length 1 again after their rounding."""
    rows = np.linspace(0, len(data.tiles) - 1, min(_SAMPLE, len(data.tiles))).astype(np.int64)
    tiles = np.asarray(data.tiles[rows], np.float32)
    return FitSample(tiles / np.linalg.norm(tiles, axis=1, keepdims=True))


def _encoded(encoder: HashEncoder, data: TrialData) -> tuple[Float32Array, Codes]:
    """Logits float32[Q, bits] of the photos and codes uint8[N, bits / 8] of the tiles."""
    blocks = [
        encoder.codes(np.asarray(data.tiles[first : first + _BLOCK], np.float32), "aerial")
        for first in range(0, len(data.tiles), _BLOCK)
    ]
    return encoder.logits(data.photos, "ground"), np.concatenate(blocks)
