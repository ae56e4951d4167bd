"""A plan from the URL of the service to a file on this machine's disk: asked for again where the network failed, never in memory as a whole."""

import io
import json
import random
import re
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
import pyarrow as pa

from pipeline.errors import (
    ConfigError,
    DataError,
    InputError,
    MismatchError,
    MissingError,
    StoreError,
)
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import PLAN, check_columns
from pipeline.storage.store_path import Place

ARROW_STREAM = "application/vnd.apache.arrow.stream"
FIRST_WAIT = 0.5
MAX_WAIT = 60.0
"""Seconds between attempts, whatever the service asks for."""

TRANSIENT = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)
PASSING = (429, 502, 503, 504)
"""What may be otherwise at the next attempt; the service's 500 says that the plan is damaged."""
REFUSALS: dict[int, type[InputError]] = {
    401: ConfigError,
    403: ConfigError,
    404: MissingError,
    409: MismatchError,
}
CURES = {
    401: "give the service's token as token= or in the environment variable REMIX_TOKEN",
    403: "give a token that may read it",
    404: "GET /v1/runs and /v1/runs/RUN/plans list what there is",
}


class _AgainError(Exception):
    """An attempt failed in a way that the next one may not."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Body(io.RawIOBase):
    """The body of an answer as a file; `ended` once more was asked for than it has, which a whole Arrow stream never does."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.ended = True
                return 0
            self._left = memoryview(chunk)
        num = min(len(buffer), len(self._left))
        buffer[:num] = self._left[:num]
        self._left = self._left[num:]
        return num


def is_url(source: object) -> bool:
    """Whether this names an HTTP address rather than a place."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def fingerprint_in(url: str) -> str | None:
    """The fingerprint that an address of the service names a plan by."""
    found = re.search(r"/v1/plans/([0-9a-f]{64})(/steps)?/?([?#]|$)", url)
    return found[1] if found else None


def public(url: str) -> str:
    """An address as messages show it: without a password and without the query, which may hold a signature."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])


def download(url: str, *, token: str | None, retries: int, timeout: float) -> BatchFile:
    """Fetches a plan's steps; `timeout` in seconds for each wait on the network (raises ConfigError, MissingError, MismatchError, DataError, StoreError)."""
    if retries < 0 or timeout <= 0:
        raise ConfigError(
            f"retries is {retries}, timeout {timeout}",
            "give retries of at least 0 and a timeout above 0 seconds",
        )
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(
            "the token has characters that an HTTP header cannot carry",
            "give the token as the service was given it",
        )
    headers = {"Accept": ARROW_STREAM, **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        with httpx.Client(headers=headers, timeout=timeout, follow_redirects=True) as client:
            return _attempts(client, _steps_url(url), retries)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StoreError(
            f"{public(url)} cannot be asked ({error})",
            "give a URL like http://HOST:PORT/v1/runs/RUN/plans/EPOCH",
        ) from error


def _steps_url(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(
        path=parts.path.rstrip("/").removesuffix("/steps") + "/steps", fragment=""
    ).geturl()


def _attempts(client: httpx.Client, url: str, retries: int) -> BatchFile:
    chance = random.SystemRandom()  # the caller's random numbers stay as they are
    for attempt in range(retries + 1):
        try:
            return _fetch(client, url)
        except (_AgainError, *TRANSIENT) as error:
            if attempt == retries:
                reason = str(error) or type(error).__name__
                raise StoreError(
                    f"{public(url)}: {reason}, {retries + 1} times",
                    "check that the service runs and can be reached from here",
                ) from error
            asked = error.wait if isinstance(error, _AgainError) else None
            # all ranks ask at once, and should not all ask again at once
            time.sleep(
                min(
                    MAX_WAIT,
                    FIRST_WAIT * 2**attempt * chance.uniform(0.5, 1) if asked is None else asked,
                )
            )
    raise AssertionError


def _fetch(client: httpx.Client, url: str) -> BatchFile:
    with client.stream("GET", url) as response:
        status = response.status_code
        if status in PASSING:
            raise _AgainError(_told(response), _retry_after(response))
        if not response.is_success:
            raise REFUSALS.get(status, StoreError)(
                f"{public(url)}: {_told(response)}",
                CURES.get(status, "check the URL and what the service says"),
            )
        kind = response.headers.get("content-type", "nothing")
        if not kind.startswith(ARROW_STREAM):
            raise DataError(
                f"{public(url)} answered {kind}, not {ARROW_STREAM}",
                "give the URL of a plan: http://HOST:PORT/v1/runs/RUN/plans/EPOCH",
            )
        return _spool(_Body(response.iter_bytes()), public(url))


def _spool(body: _Body, name: str) -> BatchFile:
    """Writes an Arrow stream to a file that has no name, so that it goes with the process."""
    try:
        with tempfile.TemporaryFile() as file:
            with (
                pa.ipc.open_stream(io.BufferedReader(body, 2**20)) as stream,
                pa.ipc.new_file(file, stream.schema) as writer,
            ):
                check_columns(stream.schema, PLAN, name)
                for batch in stream:
                    batch.validate(full=True)  # before anything follows its offsets
                    writer.write_batch(batch)
            if body.ended:
                raise _AgainError("the body ended early")
            file.flush()
            return BatchFile(Place.at(f"/dev/fd/{file.fileno()}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise StoreError(
                f"{name} cannot be kept in {tempfile.gettempdir()} ({error})",
                "free space there, or set TMPDIR to another folder",
            ) from error
        if body.ended:
            raise _AgainError(f"the body ended early ({error})") from error
        raise DataError(
            f"{name} sent no valid Arrow stream ({error})",
            "ask the service's log, or write the plan again",
        ) from error


def _told(response: httpx.Response) -> str:
    """The status, and what a problem+json body says."""
    try:
        problem = json.loads(next(response.iter_bytes(2**16), b""))
        detail = problem.get("detail") if isinstance(problem, dict) else None
    except ValueError:
        detail = None
    return f"HTTP {response.status_code}: {str(detail or response.reason_phrase)[:1000]}"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from a number or a date; None where the service does not say."""
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
