"""Every error of the service as `application/problem+json`, with a reason code, a sentence and the request's id."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from geoloc.core.errors import GeolocError, InputError, ModelMismatch, ServiceUnavailable
from geoloc.serving.limits import BodyTooLarge, ServingLimits
from geoloc.serving.schema import Problem

logger = logging.getLogger("geoloc.serving")

UNSUPPORTED = "unsupported_media_type"
_STATUS = {UNSUPPORTED: 415, "body_too_large": 413, "deadline": 504}


class Overloaded(ServiceUnavailable):
    """More requests are in flight than the service takes."""


def problem(
    request: Request, status: int, reason: str, detail: str, retry_after_s: int | None = None
) -> JSONResponse:
    """An error answer."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        reason=reason,
        request_id=getattr(request.state, "request_id", ""),
    )
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


def install(app: FastAPI, limits: ServingLimits) -> None:
    """Register handlers for everything that can go wrong in a request."""

    @app.exception_handler(GeolocError)
    def _geoloc_error(request: Request, error: GeolocError) -> JSONResponse:
        if isinstance(error, ServiceUnavailable):
            return problem(request, 503, "overloaded", str(error), limits.retry_after_s)
        if isinstance(error, InputError):
            return problem(request, _STATUS.get(error.reason, 422), error.reason, str(error))
        if isinstance(error, ModelMismatch):
            return problem(request, 422, "model_mismatch", str(error))
        logger.error("request %s: %s", getattr(request.state, "request_id", ""), error)
        return problem(request, 500, "internal", "The service cannot answer; its log says why.")

    @app.exception_handler(BodyTooLarge)
    def _too_large(request: Request, error: BodyTooLarge) -> JSONResponse:
        limit = limits.max_body_bytes
        return problem(
            request, 413, "body_too_large", f"The body is larger than {limit:,} bytes; send a smaller image."
        )

    @app.exception_handler(TimeoutError)
    def _deadline(request: Request, error: TimeoutError) -> JSONResponse:
        return problem(
            request,
            504,
            "deadline",
            f"No answer within {limits.deadline_s:g} s; try again later.",
            limits.retry_after_s,
        )

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        reason = HTTPStatus(error.status_code).name.lower()
        return problem(request, error.status_code, reason, str(error.detail))

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> JSONResponse:
        request_id = getattr(request.state, "request_id", "")
        logger.error("request %s failed", request_id, exc_info=error)
        return problem(request, 500, "internal", "The service failed on this request; its log says why.")
