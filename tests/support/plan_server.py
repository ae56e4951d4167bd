"""A server that sends a plan over real HTTP, with simulated network failures."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa

from tests.support.sampler_plans import PLAN

ARROW = "application/vnd.apache.arrow.stream"


def stream_of(table: pa.Table, chunk: int = 3) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return bytes(sink.getvalue())


Response = Callable[["PlanHandler"], None]


class PlanHandler(BaseHTTPRequestHandler):
    """Sends the responses that the test has queued, then the plan."""

    protocol_version = "HTTP/1.1"
    server: "PlanServer"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        (self.server.responses.pop(0) if self.server.responses else send_plan)(self)

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"content_type": ARROW} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class PlanServer(ThreadingHTTPServer):
    """A server that sends a plan, with simulated network failures."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PlanHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1/runs/demo/plans/2/steps"
        self.body = stream_of(PLAN.table)
        self.responses: list[Response] = []
        self.seen: list[tuple[str, dict[str, str]]] = []


def send_plan(handler: PlanHandler) -> None:
    handler.head(200, content_length=str(len(handler.server.body)))
    handler.wfile.write(handler.server.body)


def refused(status: int, detail: str | None = None, **headers: str) -> Response:
    def send(handler: PlanHandler) -> None:
        body = (
            b"<p>no</p>"
            if detail is None
            else json.dumps({"type": "about:blank", "status": status, "detail": detail}).encode()
        )
        kind = "text/html" if detail is None else "application/problem+json"
        handler.head(status, content_type=kind, content_length=str(len(body)), **headers)
        handler.wfile.write(body)

    return send


def cut(share: float, *, announced: bool) -> Response:
    """Send a part of the body, with or without the header Content-Length."""

    def send(handler: PlanHandler) -> None:
        body = handler.server.body
        handler.head(
            200, **({"content_length": str(len(body))} if announced else {"connection": "close"})
        )
        handler.wfile.write(body[: int(len(body) * share)])
        handler.close_connection = True

    return send


def cut_between_batches(handler: PlanHandler) -> None:
    handler.head(200, connection="close")
    handler.wfile.write(handler.server.body[:-8])  # all but the end-of-stream mark
    handler.close_connection = True


def hangs_up(handler: PlanHandler) -> None:
    handler.close_connection = True
