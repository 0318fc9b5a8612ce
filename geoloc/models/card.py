"""What a model directory says about itself: its card and its recipe, read without the network and without torch."""

from __future__ import annotations

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CorruptArtifact
from geoloc.models.hash_encoders.encoder import EncoderCard
from geoloc.recipe.model import ModelInputs
from geoloc.recipe.recipe import Recipe

FORMAT_VERSION = 1
WEIGHTS_NAME = "model.safetensors"
RECIPE_NAME = "recipe.yaml"
METRICS_NAME = "metrics.jsonl"
CARD_NAME = "model.json"


class ModelCard(BaseModel):
    """The content of `model.json`; `fingerprint` is that of the run that trained it.

    `hash_encoder` makes the codes. One that was fitted after training has a file of its own, with a checksum.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    format_version: int = FORMAT_VERSION
    model_id: str
    weights_sha256: str
    recipe_sha256: str
    recipe_name: str
    tile_m: float
    bits: int
    embedding_dim: int
    fingerprint: str = ""
    hash_encoder: EncoderCard | None = None
    hash_encoder_sha256: str | None = None


def read_card(uri: str) -> ModelCard:
    """The card of a model directory; `ArtifactError` when there is none, `CorruptArtifact` when unreadable."""
    card_uri = storage.join(uri, CARD_NAME)
    if not storage.exists(card_uri):
        raise ArtifactError(
            f"There is no finished model at {uri!r} (no {CARD_NAME}); check the path or train one."
        )
    try:
        card = ModelCard.model_validate_json(storage.read_bytes(card_uri))
    except ValidationError as error:
        raise CorruptArtifact(f"{card_uri!r} is not a model card; train the model again.") from error
    if card.format_version > FORMAT_VERSION:
        raise ArtifactError(
            f"{uri!r} has model format {card.format_version}, this geoloc reads up to {FORMAT_VERSION}; upgrade."
        )
    return card


def read_recipe(uri: str) -> Recipe:
    """The recipe of a model directory, its checksum verified; raises as `load_model` does."""
    text = read_verified(storage.join(uri, RECIPE_NAME), read_card(uri).recipe_sha256)
    return Recipe.from_yaml(text.decode(), where=storage.join(uri, RECIPE_NAME))


def read_inputs(uri: str) -> ModelInputs:
    """The pictures that the model of a directory takes; raises as `read_recipe` does.

    Unlike `read_recipe` it imports no network that the recipe names.
    """
    place = storage.join(uri, RECIPE_NAME)
    text = read_verified(place, read_card(uri).recipe_sha256)
    try:
        section = yaml.safe_load(text)["model"]
        return ModelInputs(**{name: section[name] for name in ModelInputs.model_fields if name in section})
    except (yaml.YAMLError, LookupError, TypeError, ValidationError) as error:
        raise CorruptArtifact(f"{place!r} is no recipe of a model; copy or train the model again.") from error


def read_verified(uri: str, sha256: str) -> bytes:
    """The bytes of a file of a model directory; `CorruptArtifact` where they are not those that its card names."""
    data = storage.read_bytes(uri)
    if storage.sha256_bytes(data) != sha256:
        raise CorruptArtifact(
            f"{uri!r} does not match the checksum in {CARD_NAME}; copy or train the model again."
        )
    return data
