"""Responses with strong ETags, 304 and gzip; tables streamed one record batch at a time."""

import gzip
import hashlib
import re
from collections.abc import Callable, Generator, Iterator
from functools import cached_property
from itertools import chain
from typing import Any

import pyarrow as pa
from fastapi import HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from service.http.formats import MEDIA_TYPES, chosen_format, encode, list_header, quality

MIN_GZIP_BYTES = 1024
RANGE = re.compile(r"bytes=(?=[0-9]|-[0-9])([0-9]{0,18})-([0-9]{0,18})")
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Not modified: `If-None-Match` contains the current ETag."}
}


class Body:
    """A response body; its hash and compressed form are computed on first use and cached."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @cached_property
    def digest(self) -> str:
        """The first 128 bits of the SHA-256, as hex."""
        return hashlib.sha256(self.data).hexdigest()[:32]

    @cached_property
    def compressed(self) -> bytes:
        """The data in gzip."""
        return gzip.compress(self.data, 4, mtime=0)


def json_response(
    request: Request, model: BaseModel, *, headers: dict[str, str] | None = None
) -> Response:
    """Respond with a model as JSON. Raises HTTPException (406) if the client accepts no JSON."""
    chosen_format(request, ["json"])
    body = Body(model.model_dump_json(by_alias=True).encode())
    return bytes_response(request, body, "application/json", headers=headers)


def bytes_response(
    request: Request,
    body: Body,
    media_type: str,
    *,
    headers: dict[str, str] | None = None,
) -> Response:
    """Respond with bytes and their ETag, or 304; compressed if accepted, large and no PNG."""
    compress = (
        media_type != MEDIA_TYPES["png"]
        and len(body.data) >= MIN_GZIP_BYTES
        and quality(list_header(request, "accept-encoding"), "gzip") > 0
    )
    etag = f'"{body.digest}-gzip"' if compress else f'"{body.digest}"'
    all_headers = _headers(request, etag, headers)
    if _is_current(request, etag):
        return Response(status_code=304, headers=all_headers)
    if compress:
        all_headers["Content-Encoding"] = "gzip"
        return Response(body.compressed, headers=all_headers, media_type=media_type)
    return Response(body.data, headers=all_headers, media_type=media_type)


def table_response(
    request: Request,
    name: str,
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    digest: str,
) -> Response:
    """Respond with a table in the format `name`, one record batch in memory at a time.

    `digest` identifies the content and determines the ETag, together with the format.
    """
    etag = hashlib.sha256(f"{name} {digest}".encode(errors="replace")).hexdigest()[:32]
    headers, media_type = _headers(request, f'"{etag}"', None), MEDIA_TYPES[name]
    if _is_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.state.head:
        response = Response(headers=headers, media_type=media_type)
        del response.headers["Content-Length"]
        return response
    chunks = encode(name, schema, batches)
    # encode the first chunk before the headers are sent: if it is damaged, the client gets an error
    first = next(chunks)
    return _Stream(first, chunks, headers, media_type)


def range_response(
    request: Request,
    media_type: str,
    digest: str,
    num_bytes: int,
    read: Callable[[int, int], Generator[bytes]],
) -> Response:
    """Respond with a file or the range of it that the client asked for, chunk by chunk.

    Args:
        request: several ranges at once, and `Range` with an `If-Range` of other content, are
            answered by the whole file (RFC 9110, 14.2).
        media_type: the media type of the file.
        digest: identifies the content; the ETag.
        num_bytes: the size of the file.
        read: the bytes from a position to before another one.
    Raises:
        HTTPException: 416, the range contains no byte of the file.
    """
    headers = _headers(request, f'"{digest}"', {"Accept-Ranges": "bytes"})
    headers["Content-Disposition"] = "inline"
    if _is_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        start, end = _range(asked[1], asked[2], num_bytes)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{num_bytes}"
    else:
        start, end = 0, num_bytes
    status = 206 if "Content-Range" in headers else 200
    if request.state.head or start == end:
        response = Response(status_code=status, headers=headers, media_type=media_type)
        if request.state.head:
            del response.headers["Content-Length"]
        return response
    headers["Content-Length"] = str(end - start)
    chunks = read(start, end)
    # read the first chunk before the headers are sent: if that fails, the client gets an error
    return _Stream(next(chunks), chunks, headers, media_type, status)


def _range(first: str, last: str, num_bytes: int) -> tuple[int, int]:
    """Start and end of a range "first-last" of which one may be empty. Raises HTTPException."""
    start = int(first) if first else max(num_bytes - int(last), 0)
    end = min(int(last) + 1, num_bytes) if first and last else num_bytes
    if start >= end:
        raise HTTPException(
            416,
            f"The range contains none of the {num_bytes:,} bytes. Change `Range`.",
            {"Content-Range": f"bytes */{num_bytes}"},
        )
    return start, end


class _Stream(StreamingResponse):
    """Close the file as soon as the client disconnects, rather than at garbage collection."""

    def __init__(
        self,
        first: bytes,
        chunks: Generator[bytes],
        headers: dict[str, str],
        media_type: str,
        status: int = 200,
    ) -> None:
        super().__init__(chain([first], chunks), status, headers, media_type)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._chunks.close()


def _headers(request: Request, etag: str, headers: dict[str, str] | None) -> dict[str, str]:
    # a name can be reused for other content: only URLs with a fingerprint are immutable
    scope = "private" if request.app.state.settings.token else "public"
    immutable = "fingerprint" in request.path_params
    cache = f"{scope}, max-age=31536000, immutable" if immutable else f"{scope}, no-cache"
    return {
        "ETag": etag,
        "Cache-Control": cache,
        "Vary": "Accept, Accept-Encoding, Authorization",
        **(headers or {}),
    }


def _is_current(request: Request, etag: str) -> bool:
    """Whether If-None-Match contains the ETag, by weak comparison (RFC 9110, 13.1.2)."""
    client_etags = [
        value.strip().removeprefix("W/")
        for value in list_header(request, "if-none-match").split(",")
    ]
    return etag in client_etags or "*" in client_etags
