"""Responses with strong ETags, 304 and gzip; Arrow IPC streamed one record batch at a time."""

import gzip
import hashlib
import io
from collections.abc import Generator, Iterator
from functools import cached_property
from itertools import chain
from typing import Any

import pyarrow as pa
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

ARROW = "application/vnd.apache.arrow.stream"
MIN_GZIP_BYTES = 1024
CHUNK_BYTES = 2**18
"""Approximate size of an encoded chunk. Bounds the memory that a slow client occupies."""
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Not modified: `If-None-Match` contains the current ETag."}
}


def quality(header: str, wanted: str) -> float:
    """Quality that an Accept or Accept-Encoding header gives to a value, 0 if it is absent.

    Wildcards are not considered.
    """
    for part in header.split(","):
        value, *parameters = (text.strip() for text in part.split(";"))
        if value.lower() == wanted:
            weight = next(
                (parameter[2:] for parameter in parameters if parameter.lower().startswith("q=")),
                "1",
            )
            try:
                return float(weight)
            except ValueError:
                return 0.0
    return 0.0


def _list_header(request: Request, name: str) -> str:
    """Value of a list header, joined if it is sent as several lines (RFC 9110, 5.3)."""
    return ",".join(request.headers.getlist(name))


def wants_arrow(request: Request) -> bool:
    """Whether the client accepts an Arrow stream and does not prefer JSON."""
    accept = _list_header(request, "accept")
    wanted = quality(accept, ARROW)
    return wanted > 0 and wanted >= quality(accept, "application/json")


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
    """Respond with a model as JSON."""
    body = Body(model.model_dump_json(by_alias=True).encode())
    return bytes_response(request, body, "application/json", headers=headers)


def bytes_response(
    request: Request,
    body: Body,
    media_type: str,
    *,
    headers: dict[str, str] | None = None,
) -> Response:
    """Respond with bytes and their ETag, or 304; compressed if accepted and large enough."""
    compress = (
        len(body.data) >= MIN_GZIP_BYTES
        and quality(_list_header(request, "accept-encoding"), "gzip") > 0
    )
    etag = f'"{body.digest}-gzip"' if compress else f'"{body.digest}"'
    all_headers = _headers(request, etag, headers)
    if _is_current(request, etag):
        return Response(status_code=304, headers=all_headers)
    if compress:
        all_headers["Content-Encoding"] = "gzip"
        return Response(body.compressed, headers=all_headers, media_type=media_type)
    return Response(body.data, headers=all_headers, media_type=media_type)


def arrow_response(
    request: Request, schema: pa.Schema, batches: Iterator[pa.RecordBatch], digest: str
) -> Response:
    """Respond with an Arrow IPC stream, one record batch in memory at a time.

    `digest` identifies the content and determines the ETag.
    """
    etag = hashlib.sha256(digest.encode(errors="replace")).hexdigest()[:32]
    headers = _headers(request, f'"{etag}"', None)
    if _is_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.state.head:
        response = Response(headers=headers, media_type=ARROW)
        del response.headers["Content-Length"]
        return response
    chunks = _encode(schema, batches)
    # encode the first chunk before the headers are sent: if it is damaged, the client gets an error
    first = next(chunks)
    return _ArrowStream(first, chunks, headers)


def _encode(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Generator[bytes]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            num = max(CHUNK_BYTES * batch.num_rows // max(batch.get_total_buffer_size(), 1), 1)
            for start in range(0, batch.num_rows, num):
                writer.write_batch(batch.slice(start, num))
                yield _drain(sink)
    yield _drain(sink)


def _drain(sink: io.BytesIO) -> bytes:
    """Return what was written since the last call."""
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data


class _ArrowStream(StreamingResponse):
    """Close the file as soon as the client disconnects, rather than at garbage collection."""

    def __init__(self, first: bytes, chunks: Generator[bytes], headers: dict[str, str]) -> None:
        super().__init__(chain([first], chunks), headers=headers, media_type=ARROW)
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
        for value in _list_header(request, "if-none-match").split(",")
    ]
    return etag in client_etags or "*" in client_etags
