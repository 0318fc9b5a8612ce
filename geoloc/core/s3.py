"""Clients of S3 with time-outs: Arrow's for bytes and listings, s3fs's for conditional puts, which Arrow lacks.

Credentials, region and endpoint come from the standard AWS environment. Errors leave this module as kinds of `OSError`.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any

import pyarrow.fs as pafs

from geoloc.core.retry import RetryPolicy, StoreBusy, is_transient_status

SCHEME = "s3://"
# Of one request inside Arrow, within a second; the policy of `retry` repeats the whole operation.
_SDK_TRIES = 3
_SDK_FIRST_WAIT_S = 0.025


def endpoint() -> str | None:
    """The S3 endpoint of the AWS environment, or None for AWS itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _key() -> str | None:
    return os.environ.get("AWS_ACCESS_KEY_ID")


def filesystem() -> pafs.FileSystem:
    """Arrow's file system for the present environment; files up to 5 MB are written by one request."""
    # The pid keeps a forked child from sharing the parent's connections.
    return _filesystem(endpoint(), _region(), _key(), os.getpid(), RetryPolicy.from_environment())


class PatientFileSystem(pafs.S3FileSystem):  # type: ignore[misc]  # its stubs call it final
    """A file system for libraries that know no policy of ours: each request is repeated for as long as ours would be.

    It comes out of a pickle with the environment of the process that opens it. Arrow's own would come out with Arrow's
    default of three tries, and with the keys of the process that it comes from.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return patient_filesystem, ()


def patient_filesystem() -> PatientFileSystem:
    """A `PatientFileSystem` for the present environment."""
    policy = RetryPolicy.from_environment()
    # The SDK waits 25 ms x 2^n after try n.
    tries = max(_SDK_TRIES, math.floor(math.log2(1.0 + policy.budget_s / _SDK_FIRST_WAIT_S)))
    return PatientFileSystem(**_options(endpoint(), _region(), policy, tries))


@lru_cache(maxsize=8)
def _filesystem(
    endpoint: str | None, region: str | None, _key: str | None, _pid: int, policy: RetryPolicy
) -> pafs.FileSystem:
    return pafs.S3FileSystem(**_options(endpoint, region, policy, _SDK_TRIES))


def _options(endpoint: str | None, region: str | None, policy: RetryPolicy, tries: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "allow_bucket_creation": True,
        "allow_delayed_open": True,
        "connect_timeout": policy.connect_timeout_s,
        "request_timeout": policy.timeout_s,
        # Arrow's own default stops retrying for good when its quota of errors is spent.
        "retry_strategy": pafs.AwsDefaultS3RetryStrategy(max_attempts=tries),
    }
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    if region or endpoint:
        options["region"] = region or "us-east-1"
    return options


@lru_cache(maxsize=8)
def _conditional(
    endpoint: str | None, region: str | None, _key: str | None, _pid: int, policy: RetryPolicy
) -> Any:
    import s3fs

    files = s3fs.S3FileSystem(
        endpoint_url=endpoint,
        client_kwargs={"region_name": region or "us-east-1"},
        config_kwargs={
            "connect_timeout": policy.connect_timeout_s,
            "read_timeout": policy.timeout_s,
            "retries": {"total_max_attempts": 1},  # `retry` has the policy
            "s3": {"addressing_style": "path" if endpoint else "auto"},
            "request_checksum_calculation": "when_required",  # not every store knows the newer checksums
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    files.retries = 1
    return files


def _call(uri: str, method: str, **arguments: Any) -> Any:
    """A request of s3fs, its errors as kinds of `OSError`."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    files = _conditional(endpoint(), _region(), _key(), os.getpid(), RetryPolicy.from_environment())
    try:
        return files.call_s3(method, Bucket=bucket, Key=key, **arguments)
    except (OSError, BotoCoreError, ClientError) as error:
        if (translated := _as_os_error(error)) is error:
            raise
        raise translated from error


def _as_os_error(error: Exception) -> OSError:
    """The kind of error that an answer's status, or the way in which it failed to come, asks for."""
    from botocore import exceptions

    # s3fs translates the answers that it has a kind of error for, and keeps botocore's as their cause.
    answer = error if isinstance(error, exceptions.ClientError) else error.__cause__
    if isinstance(answer, exceptions.ClientError):
        status = int(answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if status == 404:
            return FileNotFoundError(str(error))
        if status == 412:
            return ConditionFailed(str(error))
        return (StoreBusy if is_transient_status(status) else OSError)(str(error))
    if isinstance(
        error, exceptions.HTTPClientError | exceptions.ConnectionError | exceptions.IncompleteReadError
    ):
        return StoreBusy(str(error))
    return error if isinstance(error, OSError) else OSError(str(error))


class ConditionFailed(OSError):
    """The condition of a write does not hold."""


def head(uri: str) -> tuple[int, str]:
    """Size in bytes and ETag of an object; `FileNotFoundError` where none is."""
    found = _call(uri, "head_object")
    return int(found["ContentLength"]), str(found["ETag"])


def put_if(uri: str, data: bytes, condition: dict[str, str]) -> bool:
    """Write an object under a condition such as `{"IfNoneMatch": "*"}`; False when it does not hold."""
    try:
        _call(uri, "put_object", Body=data, **condition)
    except ConditionFailed:
        return False
    except FileNotFoundError:
        if "IfMatch" in condition:  # so AWS answers where the object is gone
            return False
        raise
    return True
