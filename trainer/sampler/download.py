"""Requests to the service, with retries: a plan, as a local temporary file, or a run.

One record batch of a plan is in memory at a time.
"""

import json
import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import IO, Any, TypeVar
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

T = TypeVar("T")
ARROW_STREAM = "application/vnd.apache.arrow.stream"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""The last bytes of every Arrow IPC stream."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt, at most."""
MAX_WAIT = 60.0
"""Maximum seconds between attempts, also if the service requests more."""

TRANSIENT = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
    httpx.HTTPStatusError,  # raised for RETRIED statuses only
)
RETRIED = (429, 502, 503, 504)
"""Statuses of temporary failures. Not 500: the service sends it for a damaged plan."""
REFUSALS: dict[int, tuple[type[InputError], str]] = {
    401: (ConfigError, "pass the service's token as token= or in the variable REMIX_TOKEN"),
    403: (ConfigError, "use a token that may read it"),
    404: (MissingError, "GET /v1/runs and /v1/runs/RUN/plans list the plans"),
    409: (MismatchError, "check the URL"),
}


def is_url(source: object) -> bool:
    """Whether `source` is an HTTP URL rather than a path."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def is_run_url(url: str) -> bool:
    """Whether a URL of the service is that of a run, not of a plan."""
    return re.search(r"/v1/runs/[^/?#]+/?([?#]|$)", url) is not None


def fingerprint_in(url: str) -> str | None:
    """The plan's fingerprint in a URL of the service, None if the URL has none."""
    match = re.search(r"/v1/plans/([0-9a-f]{64})(/steps)?/?([?#]|$)", url)
    return match[1] if match else None


def public(url: str) -> str:
    """A URL without password and query, which may contain secrets, for messages."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])


def download(url: str, **options: Any) -> BatchFile:
    """Download a plan; the options and errors are those of `request`.

    Raises DataError if the response is not a valid plan.
    """
    return request(url, ARROW_STREAM, _fetch_plan, **options)


def run_at(url: str, **options: Any) -> dict[str, Any]:
    """The service's description of a run; the options and errors are those of `request`."""
    return request(url, "application/json", _fetch_json, **options)


def request(
    url: str,
    content_type: str,
    fetch: Callable[[httpx.Client, str], T],
    *,
    token: str | None,
    retries: int,
    timeout: float,
) -> T:
    """Request something from the service.

    Args:
        url: URL of a plan or run at the service.
        content_type: media type of the response.
        fetch: makes one attempt.
        token: Bearer token, if the service requires one.
        retries: Further attempts after a network failure.
        timeout: Seconds to wait for the network at a time.
    Raises:
        ConfigError: an argument is invalid, or the service refuses the token.
        MissingError: the service has no such plan or run.
        MismatchError: the service's files do not belong together.
        DataError: the response is of another type.
        StoreError: the service cannot be reached, or the local disk is full.
    """
    if retries < 0 or timeout <= 0:
        raise ConfigError(
            f"retries is {retries}, timeout is {timeout}",
            "set retries to 0 or more, and timeout to more than 0 seconds",
        )
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(
            "the token has characters that are not allowed in an HTTP header",
            "pass the same token as the service was started with",
        )
    headers = {"Accept": content_type, **({"Authorization": f"Bearer {token}"} if token else {})}
    attempts = Retrying(
        retry=retry_if_exception_type(TRANSIENT),
        stop=stop_after_attempt(retries + 1),
        wait=_seconds_to_wait,
        reraise=True,
    )
    try:
        if content_type == ARROW_STREAM:
            url = _steps_url(url)
        with httpx.Client(headers=headers, timeout=timeout, follow_redirects=True) as client:
            return attempts(fetch, client, url)
    except TRANSIENT as error:
        raise StoreError(
            f"{public(url)}: {str(error) or type(error).__name__} ({retries + 1} attempts)",
            "check that the service runs and can be reached from this machine",
        ) from error
    except OSError as error:
        raise StoreError(
            f"{public(url)} cannot be written to {tempfile.gettempdir()} ({error})",
            "free space there, or set TMPDIR to another folder",
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StoreError(
            f"the request to {public(url)} failed ({error})",
            "use a URL such as http://HOST:PORT/v1/runs/RUN/plans/EPOCH",
        ) from error


def _steps_url(url: str) -> str:
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/steps") + "/steps"
    return parts._replace(path=path, fragment="").geturl()


def _seconds_to_wait(state: RetryCallState) -> float:
    """Retry-After if the service sends it, else exponential backoff.

    The backoff is random, since all ranks start at the same time.
    """
    error = state.outcome.exception() if state.outcome else None
    requested = _retry_after(error.response) if isinstance(error, httpx.HTTPStatusError) else None
    # not tenacity's own waits, which would change the state of the caller's random generator
    backoff = FIRST_WAIT * 2 ** (state.attempt_number - 1) * SystemRandom().uniform(0.5, 1)
    return min(MAX_WAIT, backoff if requested is None else requested)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds in the header Retry-After, a number or a date; None without a valid one."""
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _fetch_json(client: httpx.Client, url: str) -> dict[str, Any]:
    with client.stream("GET", url) as response:
        _check(response, url, "application/json")
        value: dict[str, Any] = json.loads(response.read())
        return value


def _check(response: httpx.Response, url: str, content_type: str) -> None:
    """Raise the error of a status, or of another content type."""
    status = response.status_code
    if status in RETRIED:
        raise httpx.HTTPStatusError(_problem(response), request=response.request, response=response)
    if not response.is_success:
        kind, cure = REFUSALS.get(status, (StoreError, "check the URL and the service's log"))
        raise kind(f"{public(url)}: {_problem(response)}", cure)
    content = response.headers.get("content-type", "nothing")
    if not content.startswith(content_type):
        raise DataError(
            f"{public(url)}: the response is {content}, not {content_type}",
            "use a URL such as http://HOST:PORT/v1/runs/RUN/plans/EPOCH",
        )


def _fetch_plan(client: httpx.Client, url: str) -> BatchFile:
    with client.stream("GET", url) as response, tempfile.TemporaryFile() as stream:
        _check(response, url, ARROW_STREAM)
        tail = b""
        for chunk in response.iter_bytes(2**20):
            stream.write(chunk)
            tail = (tail + chunk)[-len(END_OF_STREAM) :]
        # Arrow accepts a stream that was cut between two record batches
        if tail != END_OF_STREAM:
            raise httpx.RemoteProtocolError("the body ended early")
        stream.seek(0)
        return _to_file(stream, public(url))


def _to_file(body: IO[bytes], name: str) -> BatchFile:
    """Convert an Arrow stream to a file without a name, which is deleted with the process."""
    try:
        with tempfile.TemporaryFile() as file:
            with pa.ipc.open_stream(body) as stream, pa.ipc.new_file(file, stream.schema) as writer:
                check_columns(stream.schema, PLAN, name)
                for batch in stream:
                    batch.validate(full=True)  # invalid offsets would crash their readers
                    writer.write_batch(batch)
            file.flush()
            return BatchFile(StorePath.at(f"/dev/fd/{file.fileno()}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{name}: the response is not a valid Arrow stream ({error})",
            "check the service's log, or write the plan again",
        ) from error


def _problem(response: httpx.Response) -> str:
    """The status, and the detail of a problem+json body (RFC 9457)."""
    try:
        problem = json.loads(next(response.iter_bytes(2**16), b""))
        detail = problem.get("detail") if isinstance(problem, dict) else None
    except ValueError:
        detail = None
    return f"HTTP {response.status_code}: {str(detail or response.reason_phrase)[:1000]}"
