"""What every hash encoder is: logits of embeddings, codes of logits, and one file for what was fitted."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError

from geoloc.core import storage
from geoloc.core.arrays import AnyArray, BoolArray, Codes, Float32Array, IntArray
from geoloc.core.errors import CorruptArtifact, InputError, ModelMismatch
from geoloc.recipe.model import HashEncoderSection

FILE_NAME = "hash-encoder.safetensors"
Side = Literal["ground", "aerial"]
"""The branch that made an embedding: panoramas and street photos, or tiles and drone photos."""


@dataclass(frozen=True)
class FitSample:
    """Embeddings that an encoder is fitted on: `tiles` float32[M, D] and, where photos are at hand, pairs.

    `photos` float32[N, D] and `tile_of` int64[N], the row in `tiles` of each photo. All embeddings have length 1.
    `columns` are the azimuth columns, the last axis of [D / columns, columns], that roll as the world turns; 1 where
    they do not.
    """

    tiles: Float32Array
    photos: Float32Array | None = None
    tile_of: IntArray | None = None
    columns: int = 1

    def pairs(self, name: str) -> tuple[Float32Array, IntArray]:
        """Photos float32[N, D] and their tiles int64[N]; `InputError` for fewer than two, which nothing tells apart."""
        if self.photos is None or self.tile_of is None or not len(self.photos):
            raise InputError(
                f"The hash encoder {name!r} learns from photos and their tiles, and the sample has tiles alone; "
                "give an ingest output with pairs.",
                reason="no_pairs",
            )
        if len(self.photos) < 2:
            raise InputError(
                f"The hash encoder {name!r} tells pairs apart, and the sample has a single pair; give more.",
                reason="no_pairs",
            )
        return self.photos, self.tile_of


class EncoderCard(BaseModel):
    """Which hash encoder made codes: its kind, its longest code, and the hash of everything that decides its bits."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    bits: int = Field(ge=8, multiple_of=8)
    nested: bool
    fingerprint: str


class HashEncoder(ABC):
    """Embeddings to codes. A kind registers itself with its section of a recipe, as backbones do."""

    def __init__(self, section: HashEncoderSection, bits: int, embedding_dim: int) -> None:
        self.section = section
        self.name = section.kind
        self.bits = bits
        self.embedding_dim = embedding_dim

    @property
    @abstractmethod
    def nested(self) -> bool:
        """Whether the first bits of a code are a code as good as any of that length."""

    @classmethod
    @abstractmethod
    def fit(cls, section: HashEncoderSection, bits: int, sample: FitSample) -> Self:
        """An encoder of `bits` bits, fitted on a sample. Raises `InputError` where the sample is too small for it."""

    @abstractmethod
    def logits(self, embeddings: Float32Array, side: Side) -> Float32Array:
        """Embeddings float32[..., D] to logits float32[..., bits]; bit b of a code is set where logit b is positive."""

    def logits_of_parts(self, parts: Float32Array, shown: BoolArray, side: Side) -> Float32Array:
        """Logits float32[..., bits] of embeddings [..., D] of which some columns are zero, as unit vectors.

        `shown` bool[..., columns]: the others. A kind overrides it where hidden columns would favour a value of a bit.
        """
        return self.logits(parts, side)

    def codes(self, embeddings: Float32Array, side: Side) -> Codes:
        """Embeddings float32[..., D] to packed codes uint8[..., bits // 8]."""
        return pack_codes(self.logits(embeddings, side))

    @abstractmethod
    def arrays(self) -> dict[str, AnyArray]:
        """Everything that was fitted, by name, as `from_arrays` takes it; shapes [...] are those of the kind."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, section: HashEncoderSection, bits: int, arrays: Mapping[str, AnyArray]) -> Self:
        """The encoder of which `arrays` gave these arrays [...]; `KeyError` or `ValueError` where they do not fit."""

    @property
    def card(self) -> EncoderCard:
        """What a manifest says of the encoder. Equal fingerprints give equal bits, up to float32 rounding."""
        digest = hashlib.sha256(f"{self.name} {self.bits} {self.section.model_dump_json()}".encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return EncoderCard(name=self.name, bits=self.bits, nested=self.nested, fingerprint=digest.hexdigest())

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that decides the bits."""
        return self.card.fingerprint

    def save(self, folder: str) -> str:
        """Write `hash-encoder.safetensors` into the folder at a URI; the sha256 (hex) of the file."""
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays().items()}
        data = safetensors.numpy.save(arrays, {"name": self.name, "bits": str(self.bits)})
        storage.write_bytes(storage.join(folder, FILE_NAME), data)
        return storage.sha256_bytes(data)


def load_encoder(folder: str, section: HashEncoderSection, bits: int, sha256: str) -> HashEncoder:
    """The encoder that `save` wrote into a folder, its bytes checked against `sha256` before they are parsed.

    Raises `ArtifactError` (missing), `CorruptArtifact` (other bytes) or `ModelMismatch` (of another section).
    """
    uri = storage.join(folder, FILE_NAME)
    data = storage.read_bytes(uri)
    if storage.sha256_bytes(data) != sha256:
        raise CorruptArtifact(
            f"{uri!r} does not match its checksum; copy the model again or fit the codes again."
        )
    try:
        arrays = safetensors.numpy.load(data)
        encoder: HashEncoder = section.network.from_arrays(section, bits, arrays)
    except SafetensorError as error:
        raise CorruptArtifact(f"{uri!r} cannot be read: {error}; fit the codes again.") from error
    except (KeyError, ValueError) as error:
        raise ModelMismatch(
            f"{uri!r} is no hash encoder of kind {section.kind!r} with {bits} bits ({error}); fit the codes again."
        ) from error
    return encoder


def pack_codes(logits: Float32Array) -> Codes:
    """Code logits float[..., bits] to codes uint8[..., bits // 8]; bit 0 is the highest bit of byte 0."""
    return np.packbits(logits > 0, axis=-1)
