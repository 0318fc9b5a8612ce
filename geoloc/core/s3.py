"""Clients of S3 with time-outs: Arrow's for bytes and listings, botocore's for conditional puts, which Arrow lacks.

Credentials, region and endpoint come from the standard AWS environment. Errors leave this module as kinds of `OSError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyarrow.fs as pafs

from geoloc.core.retry import RetryPolicy, StoreBusy, is_transient_status

SCHEME = "s3://"
_SDK_TRIES = (
    3  # of one request inside Arrow, within a second; the policy of `retry` repeats the whole operation
)


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


@lru_cache(maxsize=8)
def _filesystem(
    endpoint: str | None, region: str | None, _key: str | None, _pid: int, policy: RetryPolicy
) -> pafs.FileSystem:
    options: dict[str, Any] = {
        "allow_bucket_creation": True,
        "allow_delayed_open": True,
        "connect_timeout": policy.connect_timeout_s,
        "request_timeout": policy.timeout_s,
        # Arrow's own default stops retrying for good when its quota of errors is spent.
        "retry_strategy": pafs.AwsDefaultS3RetryStrategy(max_attempts=_SDK_TRIES),
    }
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    if region or endpoint:
        options["region"] = region or "us-east-1"
    return pafs.S3FileSystem(**options)


@lru_cache(maxsize=8)
def _client(
    endpoint: str | None, region: str | None, _key: str | None, _pid: int, policy: RetryPolicy
) -> Any:
    import botocore.session
    from botocore.config import Config

    config = Config(
        connect_timeout=policy.connect_timeout_s,
        read_timeout=policy.timeout_s,
        retries={"total_max_attempts": 1},  # `retry` has the policy
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",  # not every store knows the newer checksums
        response_checksum_validation="when_required",
    )
    session = botocore.session.get_session()
    return session.create_client(
        "s3", endpoint_url=endpoint, region_name=region or "us-east-1", config=config
    )


def _call(uri: str, call: Callable[[Any, dict[str, str]], Any]) -> Any:
    """A request of botocore, its errors as kinds of `OSError`."""
    from botocore import exceptions

    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    client = _client(endpoint(), _region(), _key(), os.getpid(), RetryPolicy.from_environment())
    try:
        return call(client, {"Bucket": bucket, "Key": key})
    except exceptions.ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if status == 404:
            raise FileNotFoundError(str(error)) from error
        raise (StoreBusy if is_transient_status(status) else OSError)(str(error)) from error
    except (exceptions.HTTPClientError, exceptions.IncompleteReadError) as error:
        raise StoreBusy(str(error)) from error
    except exceptions.BotoCoreError as error:
        raise OSError(str(error)) from error


def head(uri: str) -> tuple[int, str]:
    """Size in bytes and ETag of an object; `FileNotFoundError` where none is."""
    found = _call(uri, lambda client, place: client.head_object(**place))
    return int(found["ContentLength"]), str(found["ETag"])


def put_if(uri: str, data: bytes, condition: dict[str, str]) -> bool:
    """Write an object under a condition such as `{"IfNoneMatch": "*"}`; False when it does not hold."""
    from botocore.exceptions import ClientError

    try:
        _call(uri, lambda client, place: client.put_object(**place, Body=data, **condition))
    except OSError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and cause.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
            return False
        raise
    return True
