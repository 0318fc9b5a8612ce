"""The OpenAPI document: the one in docs is the one that is served, and requests made from it meet no fault of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi_checks

from geoloc.serving.api import create_api
from geoloc.serving.decoder import DecoderPool
from geoloc.serving.limits import ServingLimits
from tests.serving.fake_backend import FakeBackend

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
CHECKS = [
    not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
OPERATIONS = 11


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    pool = DecoderPool(1)
    yield create_api(FakeBackend(), ServingLimits(decoders=1), pool=pool)
    pool.close()


def test_the_document_in_docs_is_the_one_that_is_served(app: Any) -> None:
    document = json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"
    assert DOCUMENT.read_text() == document, f"write app.openapi() into {DOCUMENT.name}"


def fuzz(app: Any, cases: int) -> dict[str, int]:
    """Send `cases` requests for each operation; how many came back with each status."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen: dict[str, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=cases,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def one(case: Any) -> None:
            response = case.call()
            seen[str(response.status_code)] = seen.get(str(response.status_code), 0) + 1
            case.validate_response(response, checks=CHECKS)

        one()
        seen["operations"] = seen.get("operations", 0) + 1
    return seen


def test_some_dozen_requests_from_the_document_meet_no_fault(app: Any) -> None:
    seen = fuzz(app, 8)
    assert seen["operations"] == OPERATIONS
    assert not [status for status in seen if status.startswith("5")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_thousand_requests_from_the_document_meet_no_fault(app: Any) -> None:
    seen = fuzz(app, 300)
    statuses = {name: count for name, count in seen.items() if name != "operations"}
    assert sum(statuses.values()) >= 2_000, statuses
    assert not [status for status in statuses if status.startswith("5")]
