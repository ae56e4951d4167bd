"""Formats of tables, and the choice between what a client accepts and what a route offers."""

import io
from collections.abc import Generator, Iterator, Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from fastapi import HTTPException, Query, Request

ARROW = "application/vnd.apache.arrow.stream"
MEDIA_TYPES = {
    "json": "application/json",
    "arrow": ARROW,
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
    "events": "text/event-stream",
    "png": "image/png",
}
CHUNK_BYTES = 2**18
"""Approximate size of an encoded chunk. Bounds the memory that a slow client occupies."""
FLAT = ("json", "arrow", "parquet", "csv")
NESTED = ("json", "arrow", "parquet")
"""Formats of tables with lists."""
_TEXT = "The format, in place of the header `Accept`."
FlatFormat = Annotated[
    Literal["json", "arrow", "parquet", "csv"] | None, Query(alias="format", description=_TEXT)
]
NestedFormat = Annotated[
    Literal["json", "arrow", "parquet"] | None, Query(alias="format", description=_TEXT)
]


def described(formats: Sequence[str]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` of a route with these formats besides JSON."""
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"content": {MEDIA_TYPES[name]: schema for name in formats if name != "json"}}}


def quality(header: str, wanted: str) -> float:
    """Quality that an Accept or Accept-Encoding header gives to a value, 0 if it is not accepted.

    The most specific entry counts: `text/csv` before `text/*` before `*/*` (RFC 9110, 12.5.1).
    """
    found: dict[str, float] = {}
    for part in header.split(","):
        value, *parameters = (text.strip().lower() for text in part.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            found[value] = float(weight)
        except ValueError:
            found[value] = 0.0
    names = (wanted, f"{wanted.split('/')[0]}/*", "*/*", "*")
    return next((found[name] for name in names if name in found), 0.0)


def list_header(request: Request, name: str) -> str:
    """Value of a list header, joined if it is sent as several lines (RFC 9110, 5.3)."""
    return ",".join(request.headers.getlist(name))


def chosen_format(request: Request, formats: Sequence[str]) -> str:
    """The format that the client asked for, among those of a route, the preferred ones first.

    Raises HTTPException (406) if the client accepts none of them.
    """
    if name := request.query_params.get("format"):
        return name
    accept = list_header(request, "accept")
    if not accept:
        return formats[0]
    best = max(formats, key=lambda name: quality(accept, MEDIA_TYPES[name]))
    if not quality(accept, MEDIA_TYPES[best]):
        offered = ", ".join(MEDIA_TYPES[name] for name in formats)
        raise HTTPException(406, f"This route responds with {offered}. Change `Accept`.")
    return best


class _Sink(io.RawIOBase):
    """Collects what a writer writes, until it is taken; the position goes on."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._position += len(self._parts[-1])
        return len(self._parts[-1])

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def encode(
    name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Generator[bytes, None, None]:
    """Encode record batches as an Arrow stream, Parquet or CSV, in chunks."""
    sink = _Sink()
    writers = {"arrow": pa.ipc.new_stream, "parquet": pq.ParquetWriter, "csv": pacsv.CSVWriter}
    with writers[name](sink, schema) as writer:
        for batch in batches:
            rows_per_chunk = CHUNK_BYTES * batch.num_rows // max(batch.get_total_buffer_size(), 1)
            step = batch.num_rows if name == "parquet" else max(rows_per_chunk, 1)
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                writer.write_batch(part)
                yield sink.take()
    yield sink.take()
