"""The stage `augment-model`: a trained model in, the same model that also looks at mirrored and resized pictures out.

The weights stay. What is embedded beside a picture stands in the recipe of the new model directory (`model.test_time`)
and in the model's id. So tiles and photos are always embedded in the same way: an index names its model by the id,
holds a copy of it, and refuses photos and codes of another.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.fingerprint import begin_output, fingerprint_of
from geoloc.core.progress import say
from geoloc.models.built_in import model_location
from geoloc.models.card import CARD_NAME, ModelCard, read_card
from geoloc.models.store import load_hash_encoder, load_model, read_log, save_model

_VERSION = 1


class AugmentModelConfig(BaseModel):
    """What is embedded beside a picture; its embedding is the sum of all, of length 1 again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: bool = Field(False, description="Embed the mirror image of every picture too.")
    scales: tuple[float, ...] = Field(
        (1.0,), description="Embed every picture at each of these scales; 1 is the picture as it is."
    )


class AugmentModelInputs(BaseModel):
    """A model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="URI of a model directory; builtin: the one that ships with geoloc.")


class AugmentModelResult(BaseModel):
    """The model with its augmentation at test time."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_uri: str
    model_id: str
    reused: bool


def run(
    config: AugmentModelConfig, inputs: AugmentModelInputs, output: str, *, overwrite: bool = False
) -> AugmentModelResult:
    """Write the model with this augmentation, in place of one that it has, into the directory `output`.

    Raises `ConfigError` for an augmentation that changes nothing and for a model that it does not suit, such as one
    whose embedding keeps azimuth columns, and what `load_model` raises.
    """
    output, model_uri = storage.absolute(output), model_location(inputs.model)
    before = read_card(model_uri)
    fingerprint = fingerprint_of(["augment-model", _VERSION, before.model_id, config.model_dump(mode="json")])
    with begin_output(
        output, fingerprint, record=CARD_NAME, what="a model", overwrite=overwrite, shared=True
    ) as done:
        if done is not None:
            return _result(output, read_card(output), reused=True)
        model, recipe, card = load_model(model_uri)
        changed = recipe.with_test_time(flip=config.flip, scales=config.scales)
        written = save_model(
            model,
            changed,
            output,
            metrics=read_log(model_uri),
            fingerprint=fingerprint,
            hash_encoder=load_hash_encoder(model_uri, recipe, card),
        )
    say(f"augment-model: {written.model_id}")
    return _result(output, written, reused=False)


def _result(output: str, card: ModelCard, *, reused: bool) -> AugmentModelResult:
    return AugmentModelResult(model_uri=output, model_id=card.model_id, reused=reused)
