"""Run the service under uvicorn, with JSON logs and graceful shutdown."""

import ipaddress
import logging
import signal
import socket
import sys

import uvicorn

from pipeline.errors import ConfigError, StoreError
from pipeline.storage.store_path import without_secrets
from service.app import create_app
from service.http.events import EventStreams
from service.http.middleware import JsonFormatter
from service.settings import Settings

SHUTDOWN_SECONDS = 10


class Server(uvicorn.Server):
    """A server that ends the streams of events before it waits for open connections."""

    def __init__(self, config: uvicorn.Config, streams: EventStreams) -> None:
        super().__init__(config)
        self._streams = streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._streams.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Serve a store until SIGINT or SIGTERM.

    Raises StoreError if the store cannot be read, ConfigError if the address is not available.
    """
    app = create_app(settings)
    try:
        app.state.store_reader.check()
    except StoreError as error:
        raise StoreError(
            f"{without_secrets(settings.store)}: {error}",
            "The store is --store, REMIX_STORE or ./store",
        ) from error
    _check_free(settings.host, settings.port)
    _log_as_json()
    logger = logging.getLogger("remix.service")
    if settings.token is None:
        audience = (
            "only this machine can read the store"
            if _is_loopback(settings.host)
            else "ANYONE WHO REACHES THIS ADDRESS CAN READ THE STORE"
        )
        logger.warning("REMIX_TOKEN is not set: listening on %s, %s", settings.host, audience)
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
        # uvicorn handles the signals while it runs and raises them again after its shutdown;
        # without a handler they would end the process with an error
        signal.signal(number, lambda *_: None)
    Server(config, app.state.event_streams).run()


def _check_free(host: str, port: int) -> None:
    """Raise ConfigError if the address is in use or not one of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port} ({error.strerror})",
            "Stop what listens there, or pass another --host or --port",
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
