"""ASGI middleware: request ids, JSON log lines, Prometheus metrics, HEAD, and a proxy's prefix."""

import json
import logging
import re
import time
import traceback
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import problem

ACCESS = logging.getLogger("remix.access")
ERRORS = logging.getLogger("remix.service")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){1,8}")
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class JsonFormatter(logging.Formatter):
    """Format a log record as one line of JSON, with the entries of `extra={"fields": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        # ASCII only: many log readers treat U+0085 and U+2028, legal in a path, as line breaks
        return json.dumps(entry)


class ProxyPrefix:
    """Middleware that adds the prefix which a proxy removed: X-Forwarded-Prefix, or `root_path`."""

    def __init__(self, app: ASGIApp, root_path: str | None) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", [])).get(b"x-forwarded-prefix", b"").decode("latin-1")
        prefix = given.rstrip("/") if PREFIX.fullmatch(given.rstrip("/")) else self._root_path
        if prefix and scope["type"] == "http":
            scope = {**scope, "root_path": prefix, "path": prefix + scope["path"]}
        await self._app(scope, receive, send)


class RequestObserver:
    """Outermost middleware: it also sees requests that fail."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(
            "remix_http_requests",
            "HTTP requests.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "remix_http_request_seconds",
            "Time until the end of the response.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._bytes = Counter(
            "remix_http_response_bytes", "Bytes of response bodies.", ["route"], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(scope, send).run(self._app, receive, self)

    def count(self, method: str, route: str, status: int, num_bytes: int, seconds: float) -> None:
        """Add a request to the metrics."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(seconds)
        self._bytes.labels(route).inc(num_bytes)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._method, self._start = scope["method"], time.perf_counter()
        self._status, self._num_bytes = 0, 0
        client_id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        self._id = client_id if REQUEST_ID.fullmatch(client_id) else uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = self._id
        scope["state"]["head"] = self._method == "HEAD"
        if self._method == "HEAD":
            scope["method"] = "GET"

    async def run(self, app: ASGIApp, receive: Receive, observer: RequestObserver) -> None:
        try:
            await app(self._scope, receive, self._forward)
        except Exception:
            ERRORS.exception(
                "request failed",
                extra={"fields": {"request_id": self._id, "path": self._scope["path"]}},
            )
            if self._status:
                raise  # the response has begun: only a closed connection can signal the error
            detail = f"Internal error. See request {self._id} in the service's log."
            response = problem(Request(self._scope), 500, detail)
            await response(self._scope, receive, self._forward)
        finally:
            self._log(observer)

    async def _forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", self._id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        elif self._scope["state"]["head"]:
            message = {**message, "body": b""}
        self._num_bytes += len(message.get("body", b""))
        await self._send(message)

    def _log(self, observer: RequestObserver) -> None:
        seconds = time.perf_counter() - self._start
        route = getattr(self._scope.get("route"), "path", "unmatched")
        method = self._method if self._method in ("GET", "HEAD") else "other"
        observer.count(method, route, self._status, self._num_bytes, seconds)
        client = (self._scope.get("client") or ("",))[0]
        query = self._scope["query_string"].decode("latin-1")
        fields = {
            "request_id": self._id,
            "client": client,
            "method": self._method,
            "path": self._scope["path"],
            "query": query,
            "route": route,
        }
        ACCESS.info(
            "request",
            extra={
                "fields": {
                    **fields,
                    "status": self._status,
                    "bytes": self._num_bytes,
                    "seconds": round(seconds, 6),
                }
            },
        )
