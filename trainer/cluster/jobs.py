"""Submits a run as a job to a Ray cluster through its jobs API, and follows the job."""

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from pipeline.errors import ConfigError, InputError, RemixError
from pipeline.storage.store_path import without_secrets
from trainer.config import RunConfig, check_world

ADDRESS = "http://127.0.0.1:8265"
ENTRYPOINT = "printenv REMIX_JOB | remix train --resume --json -"
"""Fixed command, without user input; the configuration is passed in the environment."""
MAX_CONFIG_BYTES = 64 * 1024
"""Half of Linux's limit for an environment variable; Ray also sends it escaped."""
ANSWER_SECONDS = (5, 60)
"""Timeouts for connecting and for a response; Ray's client has none."""
QUIET_SECONDS = 5
"""Silence of a job's log after which the job's status is checked."""
PATIENCE_SECONDS = 60
"""Time without contact to the cluster after which following a job fails."""
STOP_SECONDS = 30
"""Time that a stopped job has to record its status before it is killed."""

Event = str | dict[str, Any]
"""A line of a job's log, or the JSON object that Remix printed in one.

Either {"progress": {title, done, total, description}} or the result, {"run": ...}.
"""


class _Client(JobSubmissionClient):  # type: ignore[misc]
    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": ANSWER_SECONDS, **options})


class Cluster:
    """Client of a Ray cluster's jobs API.

    Args:
        address: URL; by default RAY_API_SERVER_ADDRESS, else this machine.
    Raises:
        InputError: the cluster does not respond or requires another token.
    """

    def __init__(self, address: str | None = None) -> None:
        given = address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS
        self.address = given if "://" in given else f"http://{given}"
        if not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", self.address):
            raise ConfigError(
                f"not an address of a Ray jobs API: {without_secrets(given)!r}",
                f"use a URL without credentials, such as {ADDRESS}",
            )
        # in Ray's client the environment variable overrides the argument
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        # the client logs a message at the end of each connection
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
        with self._errors_as("report its version"):
            self._client = _Client(self.address, headers=_token_headers())

    def submit(self, request: dict[str, Any]) -> str:
        """Start a job and return its id.

        Raises InputError if a job of the same run in the same store is running.
        """
        with self._errors_as("start the job"):
            for job in self._client.list_jobs():
                if job.metadata == request["metadata"] and not is_over(job):
                    raise InputError(
                        f"run {job.metadata['remix.run']!r} is already being trained "
                        f"by job {job.submission_id}",
                        self.ways(job.submission_id),
                    )
            return str(self._client.submit_job(**request))

    def ways(self, job_id: str) -> str:
        """Describe the commands that follow and stop a job."""
        options = f"--address {self.address} {job_id}"
        return (
            f"follow it with `ray job logs --follow {options}`, "
            f"stop it with `ray job stop {options}`"
        )

    def job(self, job_id: str) -> JobDetails:
        """Details of a job."""
        with self._errors_as(f"describe job {job_id}"):
            return self._client.get_job_info(job_id)

    def follow(self, job_id: str) -> Iterator[Event]:
        """Yield a job's log while it is written, until the job ends, each line exactly once.

        Ray sends the log from its start on each connection, so lines already seen are skipped after
        a reconnect. Raises RemixError if the cluster cannot be reached any more.
        """
        seen, rest, last_contact = 0, "", time.monotonic()
        with asyncio.Runner() as runner:
            while True:
                position, tail = 0, self._client.tail_job_logs(job_id)
                try:
                    self._client.get_job_info(job_id)
                    while chunk := runner.run(self._next(tail, job_id)):
                        position, last_contact = position + len(chunk), time.monotonic()
                        unseen = chunk[len(chunk) - max(position - seen, 0) :]
                        *lines, rest = (rest + unseen).split("\n")
                        seen = max(seen, position)
                        yield from map(event_of, lines)
                    if chunk is None and is_over(self._client.get_job_info(job_id)):
                        yield from [event_of(rest)] if rest else []
                        return
                    last_contact = time.monotonic()
                except (OSError, RuntimeError, aiohttp.ClientError) as error:
                    if "status code 404" in str(error):
                        raise RemixError(
                            f"job not found: {job_id}; the cluster's head at {self.address} was "
                            "restarted",
                            "submit again: the run continues from its last checkpoint",
                        ) from error
                    if time.monotonic() > last_contact + PATIENCE_SECONDS:
                        raise RemixError(
                            f"no contact to the cluster at {self.address} for {PATIENCE_SECONDS} s "
                            f"({error})",
                            f"the job may still be running: {self.ways(job_id)}",
                        ) from error
                time.sleep(1)

    async def _next(self, tail: AsyncIterator[str], job_id: str) -> str | None:
        """Next chunk of a log; None at its end, "" if the job ended but the connection did not."""
        pending = asyncio.ensure_future(anext(tail, None))
        try:
            while not (await asyncio.wait([pending], timeout=QUIET_SECONDS))[0]:
                if is_over(await asyncio.to_thread(self._client.get_job_info, job_id)):
                    return ""
            return await pending
        finally:
            pending.cancel()

    @contextmanager
    def _errors_as(self, what: str) -> Iterator[None]:
        """Convert errors of Ray's client into errors that name the cluster and the operation."""
        try:
            yield
        except AuthenticationError as error:
            raise InputError(
                f"the cluster at {self.address} requires a token, or rejected the one given",
                "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH=FILE, to the token of its head",
            ) from error
        except OSError as error:
            raise InputError(
                f"the cluster at {self.address} does not respond ({error})",
                "start it, or pass the URL of its jobs API as --address or RAY_API_SERVER_ADDRESS",
            ) from error
        except RuntimeError as error:
            raise RemixError(f"the cluster at {self.address} could not {what} ({error})") from error


def is_over(job: JobDetails) -> bool:
    """Whether a job has succeeded, failed or been stopped."""
    return bool(job.status.is_terminal())


def exit_code_of(job: JobDetails) -> int:
    """Exit code of a job; 1 if it was killed or stopped."""
    code = job.driver_exit_code or 0
    return 0 if job.status == JobStatus.SUCCEEDED else code if 0 < code < 256 else 1


def _token_headers() -> dict[str, str]:
    """Authorization header with the token that Ray's commands would use. Raises ConfigError."""
    token, path = os.environ.get("RAY_AUTH_TOKEN", ""), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token.strip():
        try:
            token = Path(path or Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            if path:
                raise ConfigError(
                    f"cannot read a token from RAY_AUTH_TOKEN_PATH: {path!r} ({error})",
                    "set it to a file that contains the token",
                ) from error
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def event_of(line: str) -> Event:
    """Parse a line of a job's log; a line that is not Remix's JSON is returned as it is."""
    if line.startswith(('{"progress":', '{"run":')):
        with suppress(ValueError):
            message = json.loads(line)
            if (
                isinstance(message.get("progress"), dict)
                or {"best_epoch", "test_accuracy"} <= message.keys()
            ):
                return dict(message)
    return line


def request_of(config: RunConfig) -> dict[str, Any]:
    """Build the job submission that trains a run. Raises ConfigError if a job cannot train it."""
    for uri in (config.store, *(config.source.shards if config.source else [])):
        _check_free_of_credentials(uri)
    if "://" not in config.store and not config.store.startswith("/"):
        cure = "use the path on the cluster's machines, e.g. /store, or a URI"
        raise ConfigError(
            f"store is a relative path: {config.store!r}, but a job runs in its own folder", cure
        )
    if not config.resources.workers:
        raise ConfigError(
            "resources.workers is 0: the job's own process has no CPUs reserved",
            "set resources.workers to 1 or more",
        )
    check_world(config)
    config_json = json.dumps(config.model_dump(mode="json"), ensure_ascii=False)
    if len(config_json.encode()) > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"the configuration has {len(config_json.encode())} bytes; "
            f"the maximum is {MAX_CONFIG_BYTES}",
            "use folders or globs in source.shards",
        )
    metadata = {
        "remix.run": config.name,
        "remix.store": without_secrets(config.store).rstrip("/"),
        "remix.version": version("data-remixing"),
    }
    env = {
        "REMIX_JOB": config_json,
        "REMIX_PROGRESS": "json",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }
    return {
        "entrypoint": ENTRYPOINT,
        "submission_id": f"remix-{config.name}-{uuid4().hex[:8]}",
        "metadata": metadata,
        "runtime_env": {"env_vars": env},
    }


def _check_free_of_credentials(uri: str) -> None:
    """Check that a URI has no credentials: Ray shows a job's configuration to all its users."""
    if re.search(
        r"(?i)://([^/@]*:[^/@]*@|.*[?&][^=&]*(key|secret|token|password|sig)[^=&]*=)", uri
    ):
        cure = (
            "set them in the environment of the cluster's machines, e.g. AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
        raise ConfigError(
            f"{without_secrets(uri)} contains credentials, which users of the cluster would see",
            cure,
        )
