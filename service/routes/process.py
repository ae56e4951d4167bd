"""The process: whether it is there, whether it can read, what it did; and the page's files."""

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException

from service.http.problems import documented
from service.http.responses import Body, respond
from service.schemas import Ready

router = APIRouter()
guarded = APIRouter()
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


@router.get(
    "/healthz",
    operation_id="getHealth",
    tags=["process"],
    response_model=Ready,
    responses=documented(422),
)
async def get_health() -> Ready:
    """The process answers."""
    return Ready()


@router.get(
    "/readyz",
    operation_id="getReadiness",
    tags=["process"],
    response_model=Ready,
    responses=documented(422, 503),
)
def get_readiness(request: Request) -> Ready:
    """The store can be read; if not, why."""
    request.app.state.reader.check()
    return Ready()


@guarded.get(
    "/metrics",
    operation_id="getMetrics",
    tags=["process"],
    responses={
        **documented(401, 422),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
def get_metrics(request: Request) -> Response:
    """Requests, latency and bytes by route, and the newest plan's balance, for Prometheus."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(
        encode(request.app.state.registry),
        media_type=media_type,
        headers={"Cache-Control": "no-store"},
    )


@router.get("/", include_in_schema=False)
def get_page(request: Request) -> Response:
    """The page."""
    return respond(
        request,
        _read("index.html"),
        TYPES["html"],
        headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"},
    )


@router.get("/assets/{name}", include_in_schema=False)
def get_asset(request: Request, name: str) -> Response:
    """A file of the page."""
    if name not in asset_names():
        raise HTTPException(404)
    return respond(request, _read(name), TYPES[name.rpartition(".")[2]])


@cache
def asset_names() -> frozenset[str]:
    """The files that the page loads."""
    return frozenset(
        entry.name for entry in _folder().iterdir() if entry.name.rpartition(".")[2] in TYPES
    ) | {"plotly.min.js"}


@cache
def _read(name: str) -> Body:
    path = resources.files("plotly") / "package_data" if name == "plotly.min.js" else _folder()
    return Body((path / name).read_bytes())


def _folder() -> Traversable:
    return resources.files("service") / "page"
