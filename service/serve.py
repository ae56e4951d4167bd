"""The service under uvicorn: JSON logs, graceful shutdown."""

import ipaddress
import logging
import signal
import sys

import uvicorn

from pipeline.errors import ConfigError
from service.app import create_app
from service.http.middleware import JsonFormatter
from service.settings import Settings

SHUTDOWN_SECONDS = 10


def serve(settings: Settings) -> None:
    """Serves a store until the process is told to stop (raises StoreError where the store is not there, ConfigError where it cannot listen)."""
    app = create_app(settings)
    app.state.reader.check()
    _log_as_json()
    logger = logging.getLogger("remix.service")
    if settings.token is None:
        whom = (
            "only this machine can read it"
            if _is_loopback(settings.host)
            else "WHOEVER REACHES THIS ADDRESS CAN READ THE STORE"
        )
        logger.warning("no REMIX_TOKEN is set: bound to %s, %s", settings.host, whom)
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        lifespan="on",
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn takes them while it runs, and raises them again when it has shut down
        signal.signal(number, lambda *_: None)
    server = uvicorn.Server(config)
    try:
        server.run()
    except SystemExit as error:
        if server.started:
            raise
        raise ConfigError(
            f"the service cannot listen on {settings.host}:{settings.port}",
            "the log says why; give another --host or --port",
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
