"""Every error as RFC 9457 problem details, without a stack trace and without a path of this machine."""

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
    401: "The token is missing or wrong.",
    404: "There is no such thing.",
    422: "A parameter is wrong.",
    500: "An artifact of the store is damaged, or the service is wrong.",
    503: "The store cannot be read now.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI."""
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
    **kind: str,
) -> Response:
    """The response for an error; `kind` holds `type` and `title` where the status alone does not tell."""
    path = request.scope["path"]
    body = ProblemDetails(
        **{"title": HTTPStatus(status).phrase, **kind},
        status=status,
        detail=detail,
        instance=quote(path, errors="replace"),
        request_id=request.state.request_id,
    )
    return Response(
        body.model_dump_json(), status, {"Cache-Control": "no-store", **(headers or {})}, MEDIA_TYPE
    )


def of_remix(request: Request, error: Exception) -> Response:
    """What the store held or lacked."""
    assert isinstance(error, RemixError)
    headers = {"Retry-After": "2"} if error.http_status == 503 else None
    damaged = {"type": "urn:remix:damaged", "title": "Damaged artifact"}
    kind = damaged if isinstance(error, DataError) else {}
    detail = request.app.state.reader.public(str(error))
    return problem(request, error.http_status, detail, headers, **kind)


def of_validation(request: Request, error: Exception) -> Response:
    """What the client asked wrongly."""
    assert isinstance(error, RequestValidationError)
    found = [
        f"{' '.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()
    ]
    return problem(request, 422, "; ".join(found))


def of_http(request: Request, error: Exception) -> Response:
    """Unknown routes, methods, tokens."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    details = {
        404: "there is nothing at this address; /docs lists the routes",
        405: "the service is read only: use GET or HEAD",
    }
    if error.status_code == 405:
        headers["Allow"] = "GET, HEAD"
    return problem(
        request, error.status_code, details.get(error.status_code, str(error.detail)), headers
    )


def install(app: FastAPI) -> None:
    """Gives the app its error handlers."""
    app.add_exception_handler(RemixError, of_remix)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(HTTPException, of_http)
