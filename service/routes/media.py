"""Routes of the original clips of samples."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from service.feature_schemas import MediaMember
from service.http.problems import documented
from service.http.responses import range_response
from service.routes import (
    ERRORS,
    Limit,
    Name,
    RowNumber,
    Start,
    StoreCatalog,
    page_response,
    start_after,
)
from service.schemas import Page
from service.store.media_files import CONTENT_TYPES, SUFFIX, MediaFiles

router = APIRouter(prefix="/v1/features", tags=["features"], responses=ERRORS)
BINARY = {
    media_type: {"schema": {"type": "string", "format": "binary"}}
    for media_type in ["application/octet-stream", *sorted({*CONTENT_TYPES.values()})]
}
Suffix = Annotated[
    str, Path(pattern=SUFFIX, description="The suffix of a member.", examples=["mp4"])
]


@router.get(
    "/{name}/rows/{row}/media",
    operation_id="listMedia",
    summary="List the original clips of a sample",
    response_model=Page[MediaMember],
)
def list_media(
    request: Request,
    catalog: StoreCatalog,
    name: Name,
    row: RowNumber,
    start: Start = 0,
    limit: Limit = 100,
) -> Response:
    """The sample's members in its shard that can be played or shown, by a fixed list of suffixes.

    404 unless the service runs with REMIX_MEDIA=1 and has the shard, which is not compressed.
    """
    members = MediaFiles(catalog, request.app.state.shards, name).members(row)
    base = quote(request.scope["path"])
    items = [
        MediaMember(
            suffix=member.place.suffix,
            content_type=member.content_type,
            bytes=member.place.num_bytes,
            url=f"{base}/{quote(member.place.suffix)}",
        )
        for member in members[start : start + limit]
    ]
    return page_response(request, items, start_after(start, limit, len(members)))


@router.get(
    "/{name}/rows/{row}/media/{suffix}",
    operation_id="getMedia",
    summary="Get an original clip of a sample",
    response_class=Response,
    responses={
        200: {"description": "The whole member, of its media type.", "content": BINARY},
        206: {"description": "The bytes of `Range`.", "content": BINARY},
        **documented(416),
    },
)
def get_media(
    request: Request, catalog: StoreCatalog, name: Name, row: RowNumber, suffix: Suffix
) -> Response:
    """The content of a member, of the media type that the list has, by a single range if asked.

    404 as for the list, and for a suffix that is not in it.
    """
    member = MediaFiles(catalog, request.app.state.shards, name).member(row, suffix)
    return range_response(
        request, member.content_type, member.digest, member.place.num_bytes, member.read
    )
