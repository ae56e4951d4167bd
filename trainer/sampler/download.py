"""Download a plan from the service to a file on the local disk, with retries; memory holds one record batch of it."""

import json
import re
import tempfile
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import IO
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

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
from pipeline.storage.store_path import StorePath

ARROW_STREAM = "application/vnd.apache.arrow.stream"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
FIRST_WAIT = 0.5
MAX_WAIT = 60.0
"""Seconds between attempts, whatever the service asks for."""

TRANSIENT = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
    httpx.HTTPStatusError,  # raised for RETRIED statuses alone
)
RETRIED = (429, 502, 503, 504)
"""Statuses that the next attempt may not have; the service's 500 says that the plan is damaged."""
REFUSALS: dict[int, tuple[type[InputError], str]] = {
    401: (ConfigError, "give the service's token as token= or in the variable REMIX_TOKEN"),
    403: (ConfigError, "give a token that may read it"),
    404: (MissingError, "GET /v1/runs and /v1/runs/RUN/plans list what there is"),
    409: (MismatchError, "check the URL and what the service says"),
}


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
    attempts = Retrying(
        retry=retry_if_exception_type(TRANSIENT),
        stop=stop_after_attempt(retries + 1),
        wait=_seconds_to_wait,
        reraise=True,
    )
    try:
        url = _steps_url(url)
        with httpx.Client(headers=headers, timeout=timeout, follow_redirects=True) as client:
            return attempts(_fetch, client, url)
    except TRANSIENT as error:
        raise StoreError(
            f"{public(url)}: {str(error) or type(error).__name__}, {retries + 1} times",
            "check that the service runs and can be reached from here",
        ) from error
    except OSError as error:
        raise StoreError(
            f"{public(url)} cannot be kept in {tempfile.gettempdir()} ({error})",
            "free space there, or set TMPDIR to another folder",
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StoreError(
            f"{public(url)} cannot be asked ({error})",
            "give a URL like http://HOST:PORT/v1/runs/RUN/plans/EPOCH",
        ) from error


def _steps_url(url: str) -> str:
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/steps") + "/steps"
    return parts._replace(path=path, fragment="").geturl()


def _seconds_to_wait(state: RetryCallState) -> float:
    """What the service asks for, else twice as long each time, spread since all ranks ask at once."""
    error = state.outcome.exception() if state.outcome else None
    asked = _retry_after(error.response) if isinstance(error, httpx.HTTPStatusError) else None
    # tenacity's own waits would draw from the generator of the caller's random numbers
    spread = FIRST_WAIT * 2 ** (state.attempt_number - 1) * SystemRandom().uniform(0.5, 1)
    return min(MAX_WAIT, spread if asked is None else asked)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from a number or a date; None where the service does not say."""
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _fetch(client: httpx.Client, url: str) -> BatchFile:
    with client.stream("GET", url) as response, tempfile.TemporaryFile() as stream:
        status = response.status_code
        if status in RETRIED:
            raise httpx.HTTPStatusError(
                _problem(response), request=response.request, response=response
            )
        if not response.is_success:
            kind, cure = REFUSALS.get(
                status, (StoreError, "check the URL and what the service says")
            )
            raise kind(f"{public(url)}: {_problem(response)}", cure)
        content = response.headers.get("content-type", "nothing")
        if not content.startswith(ARROW_STREAM):
            raise DataError(
                f"{public(url)} answered {content}, not {ARROW_STREAM}",
                "give the URL of a plan: http://HOST:PORT/v1/runs/RUN/plans/EPOCH",
            )
        tail = b""
        for chunk in response.iter_bytes(2**20):
            stream.write(chunk)
            tail = (tail + chunk)[-len(END_OF_STREAM) :]
        # Arrow takes a stream that ends between two record batches for a whole one
        if tail != END_OF_STREAM:
            raise httpx.RemoteProtocolError("the body ended early")
        stream.seek(0)
        return _to_file(stream, public(url))


def _to_file(body: IO[bytes], name: str) -> BatchFile:
    """Writes an Arrow stream as an Arrow file that has no name, so that it goes with the process."""
    try:
        with tempfile.TemporaryFile() as file:
            with pa.ipc.open_stream(body) as stream, pa.ipc.new_file(file, stream.schema) as writer:
                check_columns(stream.schema, PLAN, name)
                for batch in stream:
                    batch.validate(full=True)  # before anything follows its offsets
                    writer.write_batch(batch)
            file.flush()
            return BatchFile(StorePath.at(f"/dev/fd/{file.fileno()}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{name} sent no valid Arrow stream ({error})",
            "ask the service's log, or write the plan again",
        ) from error


def _problem(response: httpx.Response) -> str:
    """The status, and what a problem+json body says."""
    try:
        problem = json.loads(next(response.iter_bytes(2**16), b""))
        detail = problem.get("detail") if isinstance(problem, dict) else None
    except ValueError:
        detail = None
    return f"HTTP {response.status_code}: {str(detail or response.reason_phrase)[:1000]}"
