"""Every error of the service as `application/problem+json`, with a reason code, a sentence and the request's id."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from geoloc.client.schema import Problem
from geoloc.core.errors import GeolocError, InputError, ModelMismatch, ServiceUnavailable
from geoloc.serving.limits import ServingLimits

logger = logging.getLogger("geoloc.serving")

UNSUPPORTED = "unsupported_media_type"
_STATUS = {
    UNSUPPORTED: 415,
    "unknown_index": 404,
    "unknown_tile": 404,
    "no_imagery": 404,
    "snapshot_changed": 409,
}


class Overloaded(ServiceUnavailable):
    """More requests are in flight than the service takes."""


class Rejected(GeolocError):
    """A request that is refused before anything was done for it, with its HTTP status."""

    def __init__(
        self, message: str, *, status: int, reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


def problem_of(error: GeolocError) -> tuple[int, str, str] | None:
    """(status, reason, detail) of what a client caused or can wait for; None for a fault of ours."""
    if isinstance(error, Rejected):
        return error.status, error.reason, str(error)
    if isinstance(error, ServiceUnavailable):
        return 503, "overloaded" if isinstance(error, Overloaded) else "unavailable", str(error)
    if isinstance(error, InputError):
        return _STATUS.get(error.reason, 422), error.reason, str(error)
    if isinstance(error, ModelMismatch):
        return 422, "model_mismatch", str(error)
    return None


def problem(
    request: Request, status: int, reason: str, detail: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error answer."""
    request.state.reason = reason  # for the metrics
    body = problem_document(request, status, reason, detail)
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


def problem_document(request: Request, status: int, reason: str, detail: str) -> Problem:
    """The body of an error answer."""
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        reason=reason,
        request_id=getattr(request.state, "request_id", ""),
    )


def install(app: FastAPI, limits: ServingLimits) -> None:
    """Register handlers for everything that can go wrong in a request."""
    later = {"Retry-After": str(limits.retry_after_s)}

    @app.exception_handler(GeolocError)
    def _geoloc_error(request: Request, error: GeolocError) -> JSONResponse:
        if (known := problem_of(error)) is None:
            logger.error("request %s: %s", getattr(request.state, "request_id", ""), error)
            return problem(request, 500, "internal", "The service cannot answer; its log says why.")
        headers = error.headers if isinstance(error, Rejected) else later if known[0] == 503 else None
        return problem(request, *known, headers)

    @app.exception_handler(TimeoutError)
    def _deadline(request: Request, error: TimeoutError) -> JSONResponse:
        detail = f"No answer within {limits.deadline_s:g} s; try again later."
        return problem(request, 504, "deadline", detail, later)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        return problem(request, 422, "bad_field", f"Field {where}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        reason = HTTPStatus(error.status_code).name.lower()
        return problem(request, error.status_code, reason, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> JSONResponse:
        request_id = getattr(request.state, "request_id", "")
        logger.error("request %s failed", request_id, exc_info=error)
        return problem(request, 500, "internal", "The service failed on this request; its log says why.")
