"""From a model to a response: strong ETags, 304, gzip, and Arrow streamed record batch by record batch."""

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
PIECE_BYTES = 2**18
"""What is encoded at once, about, however large the record batches of the file are: a client that does not read holds it several times."""
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The client has it: the ETag is one of If-None-Match."}
}


def quality(header: str, wanted: str) -> float:
    """The quality that an Accept or Accept-Encoding header gives to exactly this value; 0 where it is not named."""
    for part in header.split(","):
        value, *parameters = (piece.strip() for piece in part.split(";"))
        if value.lower() == wanted:
            given = next(
                (parameter[2:] for parameter in parameters if parameter.lower().startswith("q=")),
                "1",
            )
            try:
                return float(given)
            except ValueError:
                return 0.0
    return 0.0


def _list(request: Request, name: str) -> str:
    """A header that is a list, which may come in several lines (RFC 9110, 5.3)."""
    return ",".join(request.headers.getlist(name))


def wants_arrow(request: Request) -> bool:
    """Whether the client prefers an Arrow stream to JSON."""
    accept = _list(request, "accept")
    wanted = quality(accept, ARROW)
    return wanted > 0 and wanted >= quality(accept, "application/json")


class Body:
    """Bytes to be served; their hash and their compressed form are made when they are first asked for, and kept with them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @cached_property
    def digest(self) -> str:
        """The first 128 bits of their SHA-256."""
        return hashlib.sha256(self.data).hexdigest()[:32]

    @cached_property
    def packed(self) -> bytes:
        """They in gzip."""
        return gzip.compress(self.data, 4, mtime=0)


def answer(
    request: Request, model: BaseModel, *, headers: dict[str, str] | None = None
) -> Response:
    """A model as JSON."""
    body = Body(model.model_dump_json(by_alias=True).encode())
    return respond(request, body, "application/json", headers=headers)


def respond(
    request: Request,
    body: Body,
    media_type: str,
    *,
    headers: dict[str, str] | None = None,
) -> Response:
    """Bytes with their ETag, or 304; compressed where the client takes it and it pays."""
    packed = (
        len(body.data) >= MIN_GZIP_BYTES and quality(_list(request, "accept-encoding"), "gzip") > 0
    )
    found = _headers(request, f'"{body.digest}-gzip"' if packed else f'"{body.digest}"', headers)
    if _known(request, found["ETag"]):
        return Response(status_code=304, headers=found)
    if packed:
        return Response(
            body.packed, headers={**found, "Content-Encoding": "gzip"}, media_type=media_type
        )
    return Response(body.data, headers=found, media_type=media_type)


def stream(
    request: Request, schema: pa.Schema, batches: Iterator[pa.RecordBatch], digest: str
) -> Response:
    """Record batches as an Arrow IPC stream, one in memory at a time; `digest` stands for the content."""
    etag = hashlib.sha256(digest.encode(errors="replace")).hexdigest()[:32]
    headers = _headers(request, f'"{etag}"', None)
    if _known(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.state.head:
        response = Response(headers=headers, media_type=ARROW)
        del response.headers["Content-Length"]
        return response
    pieces = _encode(schema, batches)
    # what is damaged from its beginning is a problem, not an answer that breaks off
    first = next(pieces)
    return _Stream(first, pieces, headers)


def _encode(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Generator[bytes]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            num = max(PIECE_BYTES * batch.num_rows // max(batch.get_total_buffer_size(), 1), 1)
            for start in range(0, batch.num_rows, num):
                writer.write_batch(batch.slice(start, num))
                yield _take(sink)
    yield _take(sink)


def _take(sink: io.BytesIO) -> bytes:
    """What was written since the last time."""
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data


class _Stream(StreamingResponse):
    """Lets go of the file and its record batch when the client hangs up: garbage collection comes after hundreds of others have."""

    def __init__(self, first: bytes, pieces: Generator[bytes], headers: dict[str, str]) -> None:
        super().__init__(chain([first], pieces), headers=headers, media_type=ARROW)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pieces.close()


def _headers(request: Request, etag: str, headers: dict[str, str] | None) -> dict[str, str]:
    """A name can be deleted and used again: only an address with a fingerprint is immutable."""
    scope = "private" if request.app.state.settings.token else "public"
    named = "fingerprint" not in request.path_params
    cache = f"{scope}, no-cache" if named else f"{scope}, max-age=31536000, immutable"
    return {
        "ETag": etag,
        "Cache-Control": cache,
        "Vary": "Accept, Accept-Encoding, Authorization",
        **(headers or {}),
    }


def _known(request: Request, etag: str) -> bool:
    """Whether If-None-Match names it (RFC 9110, 13.1.2: compared weakly)."""
    given = [
        value.strip().removeprefix("W/") for value in _list(request, "if-none-match").split(",")
    ]
    return etag in given or "*" in given
