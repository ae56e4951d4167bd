"""The route of the events of a run."""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from service.event_schemas import RunProgress
from service.http.events import event_response
from service.routes import ERRORS, Name, StoreCatalog
from service.store.catalog import Catalog
from service.store.progress import progress

router = APIRouter(prefix="/v1/runs", tags=["runs"])
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=64,
        description="The `id` of the last event that the client has seen; it is not sent again.",
    ),
]
DATA = {
    "type": "string",
    "contentMediaType": "application/json",
    "contentSchema": {"$ref": "#/components/schemas/RunProgress"},
}
EVENTS = {
    "itemSchema": {
        "type": "object",
        "properties": {
            "event": {"type": "string", "enum": ["progress", "end"]},
            "id": {"type": "string"},
            "data": DATA,
            "retry": {"type": "integer", "minimum": 0},
        },
    }
}
"""The events of a stream, as OpenAPI 3.2 describes them."""


@router.get(
    "/{run}/events",
    operation_id="streamEvents",
    summary="Follow the progress of a run",
    response_class=Response,
    responses={
        **{status: described for status, described in ERRORS.items() if status != 304},
        200: {"content": {"text/event-stream": EVENTS}},
        204: {"description": "The run has ended, and `Last-Event-ID` is its last event."},
    },
)
def stream_events(
    request: Request, catalog: StoreCatalog, run: Name, last_event_id: LastEventId = None
) -> Response:
    """Server-sent events that say when to read a run again.

    An event `progress` follows each change of the run's status, epochs, plans or scores; its data
    are a `RunProgress` as JSON. The event `end` is the last one, when the run is finished, failed,
    interrupted, damaged or deleted. A comment every 15 seconds keeps the connection open.
    503 if too many streams are open.
    """
    reader = request.app.state.store_reader

    def read() -> RunProgress:
        return progress(Catalog(reader.for_request()), run)

    streams = request.app.state.event_streams
    return event_response(request, streams, progress(catalog, run), read)
