"""A proxy that offers a service under /remix, and collects responses as nginx does."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.support.serving import running

SENT = ("accept", "authorization", "if-none-match")
KEPT = ("cache-control", "content-type", "etag", "link", "location", "www-authenticate")


@contextmanager
def proxied(target: str, *, header: bool) -> Iterator[str]:
    """Offer `target` under /remix; yield the URL of the proxy.

    Responses are complete before they are sent, but for those with `X-Accel-Buffering: no`.
    `header`: whether requests have the prefix as `X-Forwarded-Prefix`.
    """

    async def forward(request: Request) -> Response:
        headers = {name: request.headers[name] for name in SENT if name in request.headers}
        headers |= {"X-Forwarded-Prefix": "/remix"} if header else {}
        url = f"{target}/{request.path_params['path']}?{request.url.query}"
        client = httpx.AsyncClient(timeout=60)
        answer = await client.send(client.build_request("GET", url, headers=headers), stream=True)
        kept = {name: answer.headers[name] for name in KEPT if name in answer.headers}
        chunks = _chunks(client, answer)
        if answer.headers.get("x-accel-buffering") == "no":
            return StreamingResponse(chunks, answer.status_code, kept)
        return Response(b"".join([each async for each in chunks]), answer.status_code, kept)

    app = Starlette(routes=[Route("/remix/{path:path}", forward)])
    with running(uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_config=None))) as found:
        yield found


async def _chunks(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_bytes():
            yield chunk
    finally:
        await client.aclose()
