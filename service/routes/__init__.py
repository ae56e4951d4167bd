"""Routes: parameters shared by the routes of /v1, and pages of lists."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import Field

from pipeline.errors import InputError
from service.http.problems import documented
from service.http.responses import NOT_MODIFIED, json_response, table_response
from service.schemas import Damage, Page
from service.store.catalog import Catalog
from service.store.paging import Rows
from service.store.reader import NAME

T = TypeVar("T")
Name = Annotated[
    str, Path(pattern=NAME, description="A name, as in the corresponding list.", examples=["demo"])
]
Epoch = Annotated[
    Annotated[int, Field(ge=0, lt=10**9)] | Literal["latest"],
    Path(description="The epoch, from 0, or `latest`.", examples=[10]),
]
RowNumber = Annotated[
    int,
    Path(ge=0, lt=2**63, description="The row of a sample in the feature set.", examples=[0]),
]
Start = Annotated[int, Query(ge=0, lt=2**31, description="The first item, counted from 0.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="The maximum number of items.")]
NUM_TABLE_ROWS = 1000
TableLimit = Annotated[
    int | None,
    Query(
        ge=1,
        le=1000,
        description=f"The maximum number of rows. Default: {NUM_TABLE_ROWS} as JSON, else all.",
    ),
]
Fields = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=4096,
        description="Only these columns of the table, comma-separated, also as JSON.",
        examples=["epoch,validation_accuracy"],
    ),
]
ERRORS: dict[int | str, dict[str, Any]] = {
    **NOT_MODIFIED,
    **documented(401, 404, 406, 422, 500, 503),
}


def _catalog(request: Request) -> Catalog:
    return Catalog(request.app.state.store_reader.for_request())


StoreCatalog = Annotated[Catalog, Depends(_catalog)]


def page_response(request: Request, items: list[Any], next_start: int | None) -> Response:
    """Respond with a page of a list; `next_start` is the first item of the next page."""
    url, headers = next_page(request, next_start)
    return json_response(request, Page[Any](items=items, next=url), headers=headers)


def next_page(request: Request, next_start: int | None) -> tuple[str | None, dict[str, str]]:
    """The URL of the next page, and the headers that name it."""
    if next_start is None:
        return None, {}
    query = urlencode({**request.query_params, "start": next_start})
    url = f"{quote(request.scope['path'])}?{query}"
    return url, {"Link": f'<{url}>; rel="next"'}


def rows_response(
    request: Request, rows: Rows, name: str, fields: str | None, start: int, limit: int | None
) -> Response:
    """Respond with rows of a table: a page of JSON, or all in the format `name`."""
    schema = rows.schema(fields.split(",") if fields else None)
    if name != "json":
        batches = rows.batches(schema, start, limit or len(rows))
        return table_response(
            request, name, schema, batches, f"{rows.version} {fields} {start} {limit}"
        )
    limit = limit or NUM_TABLE_ROWS
    items = [
        {key: value if finite(value) else None for key, value in row.items()}
        for batch in rows.batches(schema, start, limit)
        for row in batch.to_pylist()
    ]
    return page_response(request, items, start_after(start, limit, len(rows)))


def finite(value: object) -> bool:
    """Whether JSON can express a number; True for what is none."""
    return not isinstance(value, float) or math.isfinite(value)


def summaries(catalog: Catalog, names: Sequence[str], read: Callable[[str], T]) -> list[T | Damage]:
    """Summaries of artifacts; Damage for those that cannot be read."""
    items: list[T | Damage] = []
    for name in names:
        try:
            items.append(read(name))
        except InputError as error:
            items.append(Damage(name=name, error=catalog.reader.public(str(error))))
    return items


def start_after(start: int, limit: int, total: int) -> int | None:
    """The first item of the next page; None on the last page."""
    return start + limit if start + limit < total else None
