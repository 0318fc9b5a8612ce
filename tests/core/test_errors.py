"""Errors keep their sentence, kind and reason wherever they travel."""

from __future__ import annotations

import copy
import inspect

import pytest

from geoloc.core import errors

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.GeolocError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_a_geoloc_error_with_a_failing_exit_status(kind: type[errors.GeolocError]) -> None:
    error = kind("The lid is open; close it.")
    assert str(error) == "The lid is open; close it."
    assert error.exit_status == 2


@pytest.mark.parametrize("kind", [errors.InputError, errors.QueryError])
def test_a_copied_input_error_keeps_kind_sentence_and_reason(kind: type[errors.InputError]) -> None:
    copied = copy.copy(kind("k is 0.", reason="k_out_of_range"))
    assert type(copied) is kind
    assert (str(copied), copied.reason) == ("k is 0.", "k_out_of_range")


def test_input_error_has_a_reason_when_none_is_given() -> None:
    assert errors.InputError("Nothing there.").reason == "bad_input"


def test_an_error_crosses_ray_with_its_reason(ray_local: None) -> None:
    import ray

    @ray.remote
    def fail() -> None:
        raise errors.QueryError("k is 0.", reason="k_out_of_range")

    with pytest.raises(errors.QueryError) as caught:
        ray.get(fail.remote())
    assert caught.value.reason == "k_out_of_range"


def test_corruption_is_told_apart_from_absence_but_both_are_artifact_errors() -> None:
    assert issubclass(errors.CorruptArtifact, errors.ArtifactError)
    assert not issubclass(errors.ModelMismatch, errors.ArtifactError)
