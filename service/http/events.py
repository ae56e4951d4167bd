"""Server-sent events: streams that are bounded in number, and end when the service stops."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pipeline.errors import MissingError, StoreError
from service.event_schemas import RunProgress
from service.http.formats import chosen_format
from service.store.progress import missing

POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0
RETRY_SECONDS = 10
LIVE = ("created", "running")
HEADERS = {
    "Cache-Control": "no-store, no-transform",  # compression would collect the events
    "X-Accel-Buffering": "no",  # so would nginx
    "Vary": "Accept, Authorization",
}


class EventStreams:
    """Counts the open streams of a service, and ends them all.

    Args:
        limit: the maximum number of open streams.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._num_open = limit, 0
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End all streams; call it in the event loop of the service."""
        self._closed.set()

    async def wait(self, seconds: float) -> bool:
        """Wait; returns True as soon as the streams are to end."""
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def enter(self) -> None:
        """Count a new stream. Raises HTTPException (503) above the limit."""
        if self._num_open >= self._limit or self._closed.is_set():
            raise HTTPException(
                503,
                f"Too many streams of events: {self._limit} are open. Poll, try again later, or"
                " raise REMIX_MAX_EVENT_STREAMS.",
                {"Retry-After": str(RETRY_SECONDS)},
            )
        self._num_open += 1

    def leave(self) -> None:
        """Count the end of a stream."""
        self._num_open -= 1


def event_response(
    request: Request, streams: EventStreams, first: RunProgress, read: Callable[[], RunProgress]
) -> Response:
    """Respond with the progress of a run as a stream of events, until the run ends.

    A client that has seen the last event of a run gets 204, after which EventSource does not
    connect again.

    Args:
        first: the progress now.
        read: returns the progress at a later time; called in a thread.
    Raises:
        HTTPException: 406 if the client does not accept events, 503 above the limit of streams.
    """
    chosen_format(request, ["events"])
    seen = request.headers.get("last-event-id")
    if first.status not in LIVE and seen == first.version:
        return Response(status_code=204, headers=HEADERS)
    if request.state.head:
        response = Response(headers=HEADERS, media_type="text/event-stream")
        del response.headers["Content-Length"]
        return response
    streams.enter()
    return _EventResponse(streams, _events(streams, first, read, seen))


class _EventResponse(StreamingResponse):
    """A stream that is counted until it ends or the client disconnects."""

    def __init__(self, streams: EventStreams, events: AsyncIterator[str]) -> None:
        super().__init__(events, headers=HEADERS, media_type="text/event-stream")
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.leave()


async def _events(
    streams: EventStreams, state: RunProgress, read: Callable[[], RunProgress], seen: str | None
) -> AsyncIterator[str]:
    """Yield an event for each new version, and comments in between that keep the connection."""
    yield f"retry: {RETRY_SECONDS * 1000}\n\n"
    sent = time.monotonic()
    while True:
        if state.version != seen:
            seen, sent = state.version, time.monotonic()
            name = "progress" if state.status in LIVE else "end"
            yield f"event: {name}\nid: {seen}\ndata: {state.model_dump_json()}\n\n"
        elif time.monotonic() - sent >= HEARTBEAT_SECONDS:
            sent = time.monotonic()
            yield ": the connection is alive\n\n"
        if state.status not in LIVE or await streams.wait(POLL_SECONDS):
            return
        state = await run_in_threadpool(_next, read, state)


def _next(read: Callable[[], RunProgress], state: RunProgress) -> RunProgress:
    """The new progress; the last one while the store cannot be read."""
    try:
        return read()
    except MissingError:
        return missing()
    except StoreError:
        return state
