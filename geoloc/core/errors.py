"""Errors of geoloc: every one says what is wrong, which value, which limit and what to do.

Everything a user can cause ends in a `GeolocError`; the command line prints its one sentence and exits with
`exit_status`. Anything else that escapes is a bug of ours and keeps its stack trace.
"""

from __future__ import annotations


class GeolocError(Exception):
    """Base of all errors that a user's input, configuration or environment can cause."""

    exit_status = 2


class ConfigError(GeolocError):
    """A recipe or option that cannot be used: unknown key, value out of range, options that contradict."""


class InputError(GeolocError):
    """Input that cannot be read or makes no sense: a wrong path, an undecodable image, a missing column.

    `reason` is a short machine-readable code (`undecodable`, `missing_coordinate`, ...) that quarantine
    tables and HTTP answers carry beside the sentence.
    """

    def __init__(self, message: str, *, reason: str = "bad_input") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only state is lost by Exception's default copy; Ray sends errors between processes.
        return (_rebuild_input_error, (type(self), str(self), self.reason))


def _rebuild_input_error(kind: type[InputError], message: str, reason: str) -> InputError:
    return kind(message, reason=reason)


class TooManyBadRows(GeolocError):
    """The share of quarantined rows passed the stated limit; nothing was published."""


class StorageError(GeolocError):
    """A URI that cannot be reached, read or written (permission, disk full, unknown scheme)."""


class StoreUnavailable(StorageError):
    """A store that failed or stalled for the whole budget of retries; the input is fine, the same run may succeed."""


class ArtifactError(GeolocError):
    """A table, model or index that is missing, incomplete, of another version, or in the way of an output."""


class CorruptArtifact(ArtifactError):
    """Bytes that do not match their recorded size or checksum."""


class OutputInUse(ArtifactError):
    """Another run is at work on the output, or has taken it over; nothing of ours was published."""


class ModelMismatch(GeolocError):
    """A model, a table and an index that do not belong together (bits, dimension, tile size, model id)."""


class TrainingDiverged(GeolocError):
    """A loss, a gradient or embeddings of training that are no longer usable; the same run would fail again."""


class CommitConflict(GeolocError):
    """Another writer committed first; nothing of ours became visible."""


class QueryError(InputError):
    """A query that cannot be answered: bad image, k out of range, prior without coordinates."""


class ServiceUnavailable(GeolocError):
    """A running service that cannot be reached or refuses more load for now."""
