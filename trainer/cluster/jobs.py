"""A run as a job of a Ray cluster, by its jobs API: submitted, and followed to its end."""

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
"""It never holds a word of the user's: the configuration comes in the environment."""
MAX_CONFIG_BYTES = 64 * 1024
"""Half of what Linux lets one variable of the environment hold; Ray sends it once more, escaped."""
ANSWER_SECONDS = (5, 60)
"""How long a connection and an answer may take; Ray's client alone would wait for ever."""
QUIET_SECONDS = 60
"""After so long without a line, whoever follows a log asks whether the job still runs."""
PATIENCE_SECONDS = 60
"""How long a cluster may be silent before whoever follows a job gives up."""
STOP_SECONDS = 30
"""How long a job that is stopped has to write down where it stands before it is killed."""

Event = str | dict[str, Any]
"""A line of a job's log, or what Remix said in one: {"progress": {title, done, total, description}} or the result, {"run": ...}."""


class _Client(JobSubmissionClient):  # type: ignore[misc]
    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": ANSWER_SECONDS, **options})


class Cluster:
    """The jobs of the cluster at an address, by default RAY_API_SERVER_ADDRESS or this machine's (raises InputError where it does not let us in)."""

    def __init__(self, address: str | None = None) -> None:
        given = address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS
        self.address = given if "://" in given else f"http://{given}"
        if not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", self.address):
            raise ConfigError(
                f"the address {without_secrets(given)!r} is not one of Ray's jobs API",
                f"give a URL without credentials, such as {ADDRESS}",
            )
        # Ray lets its environment win over an argument
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        # it tells of each log that ends
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
        with self._named("tell its version"):
            self._client = _Client(self.address, headers=_token_headers())

    def submit(self, request: dict[str, Any]) -> str:
        """Starts the job of `request_of` and returns its id (raises InputError where one of the same run in the same store is under way)."""
        with self._named("start the job"):
            for job in self._client.list_jobs():
                if job.metadata == request["metadata"] and not is_over(job):
                    raise InputError(
                        f"job {job.submission_id} trains run {job.metadata['remix.run']!r} already",
                        self.ways(job.submission_id),
                    )
            return str(self._client.submit_job(**request))

    def ways(self, job_id: str) -> str:
        """What one may type about a job."""
        options = f"--address {self.address} {job_id}"
        return f"`ray job logs --follow {options}` follows it, `ray job stop {options}` stops it"

    def job(self, job_id: str) -> JobDetails:
        """What the cluster tells of a job."""
        with self._named(f"tell of job {job_id}"):
            return self._client.get_job_info(job_id)

    def follow(self, job_id: str) -> Iterator[Event]:
        """The log of a job while it is written, to its end, each line once though connections break.

        Raises RemixError where the cluster stays away. Ray begins each connection at the first line
        of the log, so a new one is made only where one broke.
        """
        seen, rest, heard = 0, "", time.monotonic()
        with asyncio.Runner() as runner:
            while True:
                at, tail = 0, self._client.tail_job_logs(job_id)
                try:
                    self._client.get_job_info(job_id)
                    while chunk := runner.run(self._next(tail, job_id)):
                        at, heard = at + len(chunk), time.monotonic()
                        *lines, rest = (rest + chunk[len(chunk) - max(at - seen, 0) :]).split("\n")
                        seen = max(seen, at)
                        yield from map(event_of, lines)
                    if chunk is None and is_over(self._client.get_job_info(job_id)):
                        yield from [event_of(rest)] if rest else []
                        return
                    heard = time.monotonic()
                except (OSError, RuntimeError, aiohttp.ClientError) as error:
                    if "status code 404" in str(error):
                        raise RemixError(
                            f"the cluster at {self.address} no longer knows job {job_id}: its head was started anew",
                            "submit again: the run goes on where it stopped",
                        ) from error
                    if time.monotonic() > heard + PATIENCE_SECONDS:
                        raise RemixError(
                            f"the cluster at {self.address} has been out of reach for {PATIENCE_SECONDS} s ({error})",
                            f"the job may well go on: {self.ways(job_id)}",
                        ) from error
                time.sleep(1)

    async def _next(self, tail: AsyncIterator[str], job_id: str) -> str | None:
        """The next part of a log: None at its end, "" where the job has ended but the connection stays silent."""
        wanted = asyncio.ensure_future(anext(tail, None))
        try:
            while not (await asyncio.wait([wanted], timeout=QUIET_SECONDS))[0]:
                if is_over(await asyncio.to_thread(self._client.get_job_info, job_id)):
                    return ""
            return await wanted
        finally:
            wanted.cancel()

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Turns what Ray's client raises into errors that name the cluster and what it was to do."""
        try:
            yield
        except AuthenticationError as error:
            raise InputError(
                f"the cluster at {self.address} wants a token, or another one",
                "export RAY_AUTH_TOKEN=..., or RAY_AUTH_TOKEN_PATH=FILE, with the token of its head",
            ) from error
        except OSError as error:
            raise InputError(
                f"the cluster at {self.address} does not answer ({error})",
                "start it, or give the URL of its jobs API by --address or RAY_API_SERVER_ADDRESS",
            ) from error
        except RuntimeError as error:
            raise RemixError(f"the cluster at {self.address} could not {what} ({error})") from error


def is_over(job: JobDetails) -> bool:
    """Whether a job has succeeded, failed or been stopped."""
    return bool(job.status.is_terminal())


def exit_code_of(job: JobDetails) -> int:
    """A job's own exit code, 1 where it was killed or stopped."""
    code = job.driver_exit_code or 0
    return 0 if job.status == JobStatus.SUCCEEDED else code if 0 < code < 256 else 1


def _token_headers() -> dict[str, str]:
    """The token that a cluster may ask for, from where Ray's own commands read it (raises ConfigError)."""
    token, path = os.environ.get("RAY_AUTH_TOKEN", ""), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token.strip():
        try:
            token = Path(path or Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            if path:
                raise ConfigError(
                    f"RAY_AUTH_TOKEN_PATH is {path!r}, where no token can be read ({error})",
                    "give the path of a file that holds one",
                ) from error
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def event_of(line: str) -> Event:
    """What a line of a job's log says; what only looks like Remix's own is a line like any other."""
    if line.startswith(('{"progress":', '{"run":')):
        with suppress(ValueError):
            said = json.loads(line)
            if (
                isinstance(said.get("progress"), dict)
                or {"best_epoch", "test_accuracy"} <= said.keys()
            ):
                return dict(said)
    return line


def request_of(config: RunConfig) -> dict[str, Any]:
    """What Ray is asked for to train a run as a job (raises ConfigError where a job could not)."""
    for uri in (config.store, *(config.source.shards if config.source else [])):
        _check_free_of_credentials(uri)
    if "://" not in config.store and not config.store.startswith("/"):
        cure = "give the path as the cluster's machines see it, e.g. /store, or a URI"
        raise ConfigError(f"store is {config.store!r}, but a job runs in a folder of its own", cure)
    if not config.resources.workers:
        raise ConfigError(
            "resources.workers is 0: training in the job's own process, which has no CPUs to itself",
            "set resources.workers to 1 or more",
        )
    check_world(config)
    asked = json.dumps(config.model_dump(mode="json"), ensure_ascii=False)
    if len(asked.encode()) > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"the configuration has {len(asked.encode())} bytes, and {MAX_CONFIG_BYTES} can be sent",
            "name folders or globs in source.shards",
        )
    told = {
        "remix.run": config.name,
        "remix.store": without_secrets(config.store).rstrip("/"),
        "remix.version": version("data-remixing"),
    }
    env = {
        "REMIX_JOB": asked,
        "REMIX_PROGRESS": "json",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }
    return {
        "entrypoint": ENTRYPOINT,
        "submission_id": f"remix-{config.name}-{uuid4().hex[:8]}",
        "metadata": told,
        "runtime_env": {"env_vars": env},
    }


def _check_free_of_credentials(uri: str) -> None:
    """Ray shows a job's configuration to whoever may see its jobs."""
    if re.search(
        r"(?i)://([^/@]*:[^/@]*@|.*[?&][^=&]*(key|secret|token|password|sig)[^=&]*=)", uri
    ):
        cure = "give them to the cluster's machines, in their environment (e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        raise ConfigError(
            f"{without_secrets(uri)} is given with credentials, which everybody who sees the cluster's jobs would see",
            cure,
        )
