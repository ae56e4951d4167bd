"""The routes of /v1: each a few lines from a URL to the catalog and back."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from pipeline.errors import InputError
from service.http.problems import documented
from service.http.responses import NOT_MODIFIED, answer
from service.schemas import Damage, Page
from service.store.catalog import Catalog
from service.store.reader import NAME

T = TypeVar("T")
Name = Annotated[str, Path(pattern=NAME, description="A name from the list.", examples=["demo"])]
Epoch = Annotated[int, Path(ge=0, lt=10**9, description="Counted from 0.", examples=[10])]
Start = Annotated[int, Query(ge=0, lt=2**31, description="The first item, counted from 0.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many items.")]
ERRORS: dict[int | str, dict[str, Any]] = {**NOT_MODIFIED, **documented(401, 404, 422, 500, 503)}


def _catalog(request: Request) -> Catalog:
    return Catalog(request.app.state.reader.view())


Store = Annotated[Catalog, Depends(_catalog)]


def page(request: Request, items: list[Any], start: int | None) -> Response:
    """A page of a list; `start` is the first item of the page that follows."""
    url = (
        None
        if start is None
        else f"{quote(request.scope['path'])}?{urlencode({**request.query_params, 'start': start})}"
    )
    headers = {"Link": f'<{url}>; rel="next"'} if url else {}
    found: BaseModel = Page[Any](items=items, next=url)
    return answer(request, found, headers=headers)


def summaries(store: Catalog, names: Sequence[str], read: Callable[[str], T]) -> list[T | Damage]:
    """What `read` says of each name; of one that cannot be read, why."""
    found: list[T | Damage] = []
    for name in names:
        try:
            found.append(read(name))
        except InputError as error:
            found.append(Damage(name=name, error=store.reader.public(str(error))))
    return found


def after(start: int, limit: int, total: int) -> int | None:
    """Where the page that follows starts."""
    return start + limit if start + limit < total else None
