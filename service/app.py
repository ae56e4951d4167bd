"""The application: routes over a catalog, errors as problems, everything observed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry

from service.http import problems
from service.http.auth import guards
from service.http.middleware import RequestObserver
from service.routes import comparisons, features, plans, process, runs
from service.schemas import ProblemDetails
from service.settings import Settings
from service.store.metrics import StoreCollector
from service.store.reader import StoreReader

ABOUT = "Batch plans and their statistics, read from a store. Read only. Errors are RFC 9457 problem details; lists are pages with `next`."


def create_app(settings: Settings) -> FastAPI:
    """The service over one store (raises StoreError where the store's name makes no sense)."""
    reader = StoreReader(settings.store, settings.cache_dir, int(settings.cache_size))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        reader.close()

    app = FastAPIOffline(
        title="Remix",
        version=version("data-remixing"),
        description=ABOUT,
        lifespan=lifespan,
        redoc_url=None,
        docs_url="/docs",
        redirect_slashes=False,
    )
    app.state.settings, app.state.reader = settings, reader
    app.state.registry = CollectorRegistry()
    app.state.registry.register(StoreCollector(reader))
    app.add_middleware(RequestObserver, registry=app.state.registry)
    problems.install(app)
    shown = guards(settings)
    routers = (features.router, plans.router, plans.by_fingerprint, runs.router)
    for router in (*routers, comparisons.router, process.guarded):
        app.include_router(router, dependencies=shown)
    app.include_router(process.router, dependencies=shown[-1:])
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Puts into the OpenAPI document what FastAPI does not know: the one shape of errors, and that 401 needs a token."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = described()
            document["components"]["schemas"]["ProblemDetails"] = ProblemDetails.model_json_schema(
                mode="serialization"
            )
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            if not app.state.settings.token:
                for operations in document["paths"].values():
                    for operation in operations.values():
                        operation["responses"].pop("401", None)
        return described()

    setattr(app, "openapi", openapi)  # noqa: B010
