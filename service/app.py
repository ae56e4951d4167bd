"""The ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry

from pipeline.storage.store_path import StorePath
from service.event_schemas import RunProgress
from service.examples import add_examples
from service.http import problems
from service.http.auth import guards
from service.http.events import EventStreams
from service.http.middleware import ProxyPrefix, RequestObserver
from service.routes import (
    comparisons,
    events,
    features,
    inspection,
    media,
    plans,
    predictions,
    process,
    runs,
)
from service.schemas import ProblemDetails
from service.settings import Settings
from service.store.metrics import StoreCollector
from service.store.reader import StoreReader

DESCRIPTION = """
Runs, batch plans and their statistics, features and comparisons of a store. Read only.

Errors are RFC 9457 problem details. Lists come in pages: follow `next` (also in the `Link` header)
until it is null. Responses have an `ETag`; send it as `If-None-Match` to get 304 if
nothing changed.
""".strip()


def create_app(settings: Settings) -> FastAPI:
    """Create the service over one store. Raises StoreError if the store's URI is invalid."""
    store_reader = StoreReader(settings.store, settings.cache_dir, int(settings.cache_size))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        store_reader.close()

    app = FastAPIOffline(
        title="Remix",
        version=version("data-remixing"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        docs_url="/docs",
    )
    app.state.settings, app.state.store_reader = settings, store_reader
    app.state.event_streams = EventStreams(settings.max_event_streams)
    app.state.shards = (
        StorePath.at(settings.shards, patient=False) if settings.media and settings.shards else None
    )
    app.state.registry = CollectorRegistry()
    app.state.registry.register(StoreCollector(store_reader))
    app.add_middleware(ProxyPrefix, root_path=settings.root_path)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD"],
            allow_headers=["Authorization", "If-None-Match", "Last-Event-ID"],
            expose_headers=["ETag", "Link", "X-Request-ID"],
        )
    app.add_middleware(RequestObserver, registry=app.state.registry)
    problems.install(app)
    dependencies = guards(settings)
    modules = (features, media, plans, events, runs, predictions, inspection, comparisons)
    for router in (*(each.router for each in modules), plans.by_fingerprint, process.guarded):
        app.include_router(router, dependencies=dependencies)
    app.include_router(process.router, dependencies=dependencies[-1:])  # public: no token
    _complete_openapi(app)
    return app


def _complete_openapi(app: FastAPI) -> None:
    """Add the models of errors and events to the OpenAPI document; remove 401 without a token."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for model in (ProblemDetails, RunProgress):
                schema = model.model_json_schema(mode="serialization")
                document["components"]["schemas"][model.__name__] = schema
            add_examples(document)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            if not app.state.settings.token:
                for operations in document["paths"].values():
                    for operation in operations.values():
                        operation["responses"].pop("401", None)
        return generate()

    setattr(app, "openapi", openapi)  # noqa: B010
