"""Routes of the process: health, readiness and metrics; and the files of the web page."""

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException

from service.http.problems import documented
from service.http.responses import Body, bytes_response
from service.schemas import Ready

router = APIRouter()
guarded = APIRouter()
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Check that the process runs",
    tags=["process"],
    response_model=Ready,
    responses=documented(422),
)
async def get_health() -> Ready:
    """Liveness: responds without reading the store."""
    return Ready()


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Check that the store can be read",
    tags=["process"],
    response_model=Ready,
    responses=documented(422, 503),
)
def get_readiness(request: Request) -> Ready:
    """Readiness: 503 with the cause if the store cannot be read."""
    request.app.state.store_reader.check()
    return Ready()


@guarded.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Get Prometheus metrics",
    tags=["process"],
    response_class=PlainTextResponse,
    responses=documented(401, 422),
)
def get_metrics(request: Request) -> Response:
    """Requests, latency and bytes by route, and the balance of the newest plan."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(
        encode(request.app.state.registry),
        media_type=media_type,
        headers={"Cache-Control": "no-store"},
    )


@router.get("/", include_in_schema=False)
def get_page(request: Request) -> Response:
    """Serve the web page."""
    return bytes_response(
        request,
        _page(media=request.app.state.settings.media),
        TYPES["html"],
        headers={
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Referrer-Policy": "no-referrer",
        },
    )


@router.get("/assets/{name}", include_in_schema=False)
def get_asset(request: Request, name: str) -> Response:
    """Serve a file of the web page."""
    if name not in asset_names():
        raise HTTPException(404)
    return bytes_response(request, _read(name), TYPES[name.rpartition(".")[2]])


@cache
def asset_names() -> frozenset[str]:
    """Names of the files that the web page loads."""
    return frozenset(
        entry.name for entry in _folder().iterdir() if entry.name.rpartition(".")[2] in TYPES
    ) | {"plotly.min.js"}


@cache
def _page(*, media: bool) -> Body:
    """The web page; `data-media` of its body makes it ask for original clips."""
    page = _read("index.html")
    return Body(page.data.replace(b"<body>", b"<body data-media>")) if media else page


@cache
def _read(name: str) -> Body:
    path = resources.files("plotly") / "package_data" if name == "plotly.min.js" else _folder()
    return Body((path / name).read_bytes())


def _folder() -> Traversable:
    return resources.files("service") / "page"
