"""Error responses: RFC 9457 problem details without stack traces and local paths."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from pipeline.errors import DataError, RemixError
from service.schemas import ProblemDetails

MEDIA_TYPE = "application/problem+json"
DESCRIPTIONS = {
    401: "Token missing or wrong.",
    404: "Not found.",
    406: "The client accepts none of the formats of this route.",
    416: "The range contains no byte of the content; `Content-Range` has the size.",
    422: "Invalid parameter.",
    500: "A damaged artifact, or an internal error.",
    503: "The store cannot be read at the moment; try again later.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` of a route for these error statuses."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {"description": DESCRIPTIONS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def problem(
    request: Request,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **overrides: str,
) -> Response:
    """Create an error response; `overrides` are `type` and `title` if not those of the status."""
    path = request.scope["path"]
    body = ProblemDetails(
        **{"title": HTTPStatus(status).phrase, **overrides},
        status=status,
        detail=detail,
        instance=quote(path, errors="replace"),
        request_id=request.state.request_id,
    )
    return Response(
        body.model_dump_json(), status, {"Cache-Control": "no-store", **(headers or {})}, MEDIA_TYPE
    )


def handle_remix_error(request: Request, error: Exception) -> Response:
    """Respond to a missing or damaged artifact, or to a store that cannot be read."""
    assert isinstance(error, RemixError)
    headers = {"Retry-After": "2"} if error.http_status == 503 else None
    damaged = {"type": "urn:remix:damaged", "title": "Damaged artifact"}
    overrides = damaged if isinstance(error, DataError) else {}
    detail = request.app.state.store_reader.public(str(error))
    return problem(request, error.http_status, detail, headers, **overrides)


def handle_invalid_request(request: Request, error: Exception) -> Response:
    """Respond to invalid parameters."""
    assert isinstance(error, RequestValidationError)
    messages = [
        f"{' '.join(str(part) for part in entry['loc'])}: {entry['msg']}"
        for entry in error.errors()
    ]
    return problem(request, 422, "; ".join(messages))


def handle_http_error(request: Request, error: Exception) -> Response:
    """Respond to unknown routes, wrong methods and wrong tokens."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    details = {
        404: "No such route. See /docs for all routes.",
        405: "The service is read-only. Use GET or HEAD.",
    }
    if error.status_code == 405:
        headers["Allow"] = "GET, HEAD"
    return problem(
        request, error.status_code, details.get(error.status_code, str(error.detail)), headers
    )


def install(app: FastAPI) -> None:
    """Register the error handlers."""
    app.add_exception_handler(RemixError, handle_remix_error)
    app.add_exception_handler(RequestValidationError, handle_invalid_request)
    app.add_exception_handler(HTTPException, handle_http_error)
