"""Model directories: `model.safetensors`, `recipe.yaml`, `metrics.jsonl` and `model.json`, which is written last.

`model.json` names the others' checksums: a directory without it is unfinished, one whose bytes differ from it
is corrupt. No pickle anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from geoloc.core import storage
from geoloc.core.errors import CorruptArtifact, ModelMismatch
from geoloc.models.card import (
    CARD_NAME,
    METRICS_NAME,
    RECIPE_NAME,
    WEIGHTS_NAME,
    ModelCard,
    read_card,
    read_recipe,
    read_verified,
)
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.hash_encoders.encoder import HashEncoder, load_encoder
from geoloc.models.hash_encoders.trained import TrainedEncoder
from geoloc.recipe.recipe import Recipe


def save_model(
    model: GeoLocalizer,
    recipe: Recipe,
    uri: str,
    *,
    metrics: Sequence[Mapping[str, Any]] = (),
    fingerprint: str = "",
    hash_encoder: HashEncoder | None = None,
) -> ModelCard:
    """Write a model directory and return its card; the card is the last file, so a reader sees it whole or not.

    `hash_encoder` is the fitted encoder that the recipe names, None for the head that was trained with the model.
    """
    weights = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in _unshared(model).items()}
    )
    sha256 = storage.sha256_bytes(weights)
    text = recipe.to_yaml().encode()
    encoder = hash_encoder or TrainedEncoder(
        model.hash_head, recipe.model.hash.bits, recipe.model.embedding_dim
    )
    codes = encoder.card
    fitted = f"-{codes.name}-{codes.fingerprint[:8]}" if hash_encoder else ""
    augmented = f"-{recipe.model.test_time.words}" if recipe.model.test_time else ""
    card = ModelCard(
        model_id=f"{recipe.name}-{sha256[:12]}{augmented}{fitted}",
        weights_sha256=sha256,
        recipe_sha256=storage.sha256_bytes(text),
        recipe_name=recipe.name,
        tile_m=recipe.model.tile_m,
        bits=recipe.model.hash.bits,
        embedding_dim=recipe.model.embedding_dim,
        fingerprint=fingerprint,
        hash_encoder=codes,
        hash_encoder_sha256=hash_encoder.save(uri) if hash_encoder else None,
    )
    storage.write_bytes(storage.join(uri, WEIGHTS_NAME), weights)
    storage.write_bytes(storage.join(uri, RECIPE_NAME), text)
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    storage.write_bytes(storage.join(uri, METRICS_NAME), lines.encode())
    storage.write_bytes(storage.join(uri, CARD_NAME), card.model_dump_json(indent=1).encode())
    return card


def read_log(uri: str) -> list[dict[str, float]]:
    """The lines of a model's `metrics.jsonl`, none where it has no log."""
    place = storage.join(uri, METRICS_NAME)
    if not storage.exists(place):
        return []
    return [json.loads(line) for line in storage.read_text(place).splitlines() if line]


def load_model(uri: str) -> tuple[GeoLocalizer, Recipe, ModelCard]:
    """A model in evaluation mode with its recipe and card, all checksums verified before parsing.

    Raises `ArtifactError` (missing), `CorruptArtifact` (bytes differ from the card) or `ModelMismatch` (the
    weights do not fit the recipe).
    """
    card = read_card(uri)
    weights = read_verified(storage.join(uri, WEIGHTS_NAME), card.weights_sha256)
    recipe = read_recipe(uri)
    model = GeoLocalizer(recipe.model)
    try:
        state = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise CorruptArtifact(
            f"The weights in {uri!r} cannot be read: {error}; train the model again."
        ) from error
    load_weights(model, state, where=uri)
    return model.eval(), recipe, card


def load_hash_encoder(uri: str, recipe: Recipe, card: ModelCard) -> HashEncoder | None:
    """The fitted hash encoder of a model directory; None where the codes come from the head that is trained with it.

    Raises `ArtifactError`, `CorruptArtifact` or `ModelMismatch` as `load_model` does.
    """
    section = recipe.model.hash.encoder
    if section is None:
        return None
    if card.hash_encoder_sha256 is None:
        raise ModelMismatch(
            f"The recipe of {uri!r} names the hash encoder {section.kind!r}, which was never fitted; run "
            "`geoloc fit-codes` on the model."
        )
    return load_encoder(uri, section, recipe.model.hash.bits, card.hash_encoder_sha256)


def load_weights(model: GeoLocalizer, state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Put weights [...] into a model; `ModelMismatch` names the first tensor that is missing, unknown or misshapen."""
    expected = _unshared(model)
    for name, tensor in expected.items():
        if name not in state:
            raise ModelMismatch(
                f"The weights in {where!r} lack {name!r}; they were trained with another recipe."
            )
        if state[name].shape != tensor.shape:
            raise ModelMismatch(
                f"{name!r} in {where!r} has shape {list(state[name].shape)}, the recipe says {list(tensor.shape)}; "
                "use the recipe it was trained with."
            )
    for name in state:
        if name not in expected:
            raise ModelMismatch(
                f"The weights in {where!r} hold the unknown {name!r}; use the recipe they came from."
            )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])


def weights_of(model: GeoLocalizer) -> dict[str, torch.Tensor]:
    """Copies of all weights [...] and batch-norm statistics by name, a shared backbone once."""
    return {name: tensor.detach().cpu().clone() for name, tensor in _unshared(model).items()}


def _unshared(model: GeoLocalizer) -> dict[str, torch.Tensor]:
    """The state of a model; tensors that two names share appear under the first name only."""
    seen: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state
