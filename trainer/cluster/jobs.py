"""Runs as jobs of a Ray cluster, by its jobs API: submitted, listed, followed, stopped."""

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType

from pipeline.errors import ConfigError, InputError, MissingError, RemixError
from pipeline.storage.store_path import without_secrets
from trainer.cluster.auth import given_token, refused
from trainer.config import RunConfig, check_world

ADDRESS = "http://127.0.0.1:8265"
ENTRYPOINT = "printenv REMIX_JOB | remix train --resume --json -"
"""It never holds a word of the user's: the configuration comes in the environment."""
MAX_CONFIG_BYTES = 64 * 1024
"""Half of what Linux lets one variable of the environment hold; Ray sends it once more, escaped."""
ANSWER_SECONDS = (5, 60)
"""How long a connection and an answer may take; Ray's client alone would wait for ever."""
QUIET_SECONDS = 60
"""After so long without a line, the connection that follows a log is made anew: it may be dead."""
PATIENCE_SECONDS = 60
"""How long a cluster may be silent before whoever follows a job gives up."""
STOP_SECONDS = 30
"""How long a job that is stopped has to write down where it stands before it is killed."""

Event = str | dict[str, Any]
"""A line of a job's log, or what Remix said in one: {"progress": {title, done, total, description}} or the result, {"run": ...}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as the cluster tells of it; `run` and `store` are None where somebody else submitted it, times are in seconds since 1970."""

    id: str
    run: str | None
    store: str | None
    status: str
    started: float | None
    ended: float | None
    message: str
    driver_exit_code: int | None

    @classmethod
    def of(cls, details: JobDetails) -> "Job":
        """What is of use in Ray's own account."""
        told = details.metadata or {}
        started, ended = (
            None if at is None else at / 1000 for at in (details.start_time, details.end_time)
        )
        message = (details.message or "").split(", last available logs")[0]
        facts = {
            "run": told.get("remix.run"),
            "store": told.get("remix.store"),
            "status": details.status.value,
            "message": message,
        }
        return cls(
            id=details.submission_id,
            started=started,
            ended=ended,
            driver_exit_code=details.driver_exit_code,
            **facts,
        )

    @property
    def is_over(self) -> bool:
        """Whether it has succeeded, failed or been stopped."""
        return bool(JobStatus(self.status).is_terminal())

    @property
    def exit_code(self) -> int:
        """The job's own, 1 where it was killed or stopped."""
        code = self.driver_exit_code or 0
        return 0 if self.status == JobStatus.SUCCEEDED.value else code if 0 < code < 256 else 1

    def facts(self) -> dict[str, Any]:
        """The job as JSON shows it."""
        started = (
            None
            if self.started is None
            else datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds")
        )
        seconds = (
            None
            if self.started is None
            else round(max((self.ended or time.time()) - self.started, 0.0), 1)
        )
        facts = {
            "job": self.id,
            "run": self.run,
            "store": self.store,
            "status": self.status,
            "started": started,
            "seconds": seconds,
        }
        return {
            **facts,
            "message": self.message,
            "exit_code": self.exit_code if self.is_over else None,
        }

    @property
    def text(self) -> str:
        """The job in one line."""
        of = f" of run {self.run} in {self.store}" if self.run else ""
        return f"{self.id}{of}: {self.status}" + (f" ({self.message})" if self.message else "")


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
        self._option = f" --address {self.address}" if address else ""
        # Ray lets its environment win over an argument
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        self._token = given_token()
        self._client = self._connect()

    def submit(self, request: dict[str, Any]) -> Job:
        """Starts the job of `request_of` (raises InputError where one of the same run in the same store is under way)."""
        wanted = request["metadata"]
        for job in self.jobs():
            if not job.is_over and (job.run, job.store) == (
                wanted["remix.run"],
                wanted["remix.store"],
            ):
                raise InputError(
                    f"job {job.id} trains run {job.run!r} in {job.store} already", self.ways(job.id)
                )
        with self._named("start the job"):
            return self._told(self._client.submit_job(**request))

    def ways(self, job_id: str) -> str:
        """What one may type about a job."""
        return f"`remix jobs {job_id} --follow{self._option}` follows it, `remix stop {job_id}{self._option}` stops it"

    def jobs(self) -> list[Job]:
        """All jobs that Remix submitted, the newest first."""
        return [job for job in self._all() if job.run]

    def job(self, name: str) -> Job:
        """A job by its id, or the newest of the run called so (raises MissingError)."""
        jobs = self._all()
        found = [job for job in jobs if job.id == name] or [job for job in jobs if job.run == name]
        if not found:
            raise self._missing(f"job {name!r}", jobs)
        return found[0]

    def stop(self, name: str) -> Job:
        """Stops a job by its id, or the one under way of the run called so, and waits for its end (raises MissingError, InputError, RemixError)."""
        jobs = self._all()
        found = [job for job in jobs if job.id == name] or [
            job for job in jobs if job.run == name and not job.is_over
        ]
        if not found:
            raise self._missing(f"job {name!r} under way", [job for job in jobs if not job.is_over])
        if len(found) > 1:
            raise InputError(
                f"{len(found)} jobs train a run called {name!r}",
                f"name one of {', '.join(job.id for job in found)}",
            )
        job, deadline = found[0], time.monotonic() + 2 * STOP_SECONDS
        with self._named(f"stop job {job.id}"):
            if not job.is_over:
                self._client.stop_job(job.id)
            while not job.is_over:
                if time.monotonic() > deadline:
                    raise RemixError(
                        f"job {job.id} is still {job.status} {2 * STOP_SECONDS} s after it was told to stop",
                        "look at the log of the cluster's head",
                    )
                time.sleep(0.5)
                job = self._told(job.id)
        return job

    def log(self, job_id: str) -> list[Event]:
        """What the log of a job holds so far."""
        with self._named(f"show the log of job {job_id}"):
            return [event_of(line) for line in self._client.get_job_logs(job_id).splitlines()]

    def follow(self, job_id: str) -> Iterator[Event]:
        """The log of a job while it is written, to its end, each line once though connections break (raises RemixError where the cluster stays away)."""
        seen, rest, heard = 0, "", time.monotonic()
        with asyncio.Runner() as runner:
            while True:
                at, tail = 0, self._client.tail_job_logs(job_id)
                try:
                    self._told(job_id)
                    while chunk := runner.run(_next(tail)):
                        # each connection begins at the first line of the log
                        at, heard = at + len(chunk), time.monotonic()
                        *lines, rest = (rest + chunk[len(chunk) - max(at - seen, 0) :]).split("\n")
                        seen = max(seen, at)
                        yield from map(event_of, lines)
                    if chunk is None and self._told(job_id).is_over:
                        yield from [event_of(rest)] if rest else []
                        return
                    heard = time.monotonic()
                except MissingError as error:
                    raise RemixError(
                        f"{error}: its head was started anew",
                        "submit again: the run goes on where it stopped",
                    ) from error
                except (OSError, RuntimeError, aiohttp.ClientError) as error:
                    if time.monotonic() > heard + PATIENCE_SECONDS:
                        what = f"the cluster at {self.address} has been out of reach for {PATIENCE_SECONDS} s ({error})"
                        raise RemixError(
                            what, f"the job may well go on: {self.ways(job_id)}"
                        ) from error
                finally:
                    runner.run(tail.aclose())
                time.sleep(1)

    def _connect(self) -> _Client:
        # it tells of each log that ends
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
        with self._named("tell its version"):
            return _Client(self.address, headers=self._token.headers if self._token else None)

    def _all(self) -> list[Job]:
        with self._named("list its jobs"):
            found = [
                Job.of(each) for each in self._client.list_jobs() if each.type is JobType.SUBMISSION
            ]
        return sorted(found, key=lambda job: job.started or 0, reverse=True)

    def _told(self, job_id: str) -> Job:
        try:
            return Job.of(self._client.get_job_info(job_id))
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            raise MissingError(f"the cluster at {self.address} knows no job {job_id!r}") from error

    def _missing(self, what: str, there: list[Job]) -> MissingError:
        names = ", ".join(job.id for job in there[:10]) + (", ..." if len(there) > 10 else "")
        return MissingError(
            f"there is no {what} at {self.address}",
            f"there are {names}" if there else "there is none at all",
        )

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Turns what Ray's client raises into errors that name the cluster and what it was to do."""
        try:
            yield
        except AuthenticationError as error:
            raise refused(self.address, self._token) from error
        except OSError as error:
            cure = (
                "start it, or give the URL of its jobs API by --address or RAY_API_SERVER_ADDRESS"
            )
            raise InputError(
                f"the cluster at {self.address} does not answer ({error})", cure
            ) from error
        except RuntimeError as error:
            raise RemixError(f"the cluster at {self.address} could not {what} ({error})") from error


async def _next(tail: AsyncGenerator[str, None]) -> str | None:
    """The next part of a log: None at its end, "" where there was none for long."""
    try:
        return await asyncio.wait_for(anext(tail, None), QUIET_SECONDS)
    # some of these are timeouts, too: of a connection that did not come about
    except aiohttp.ClientError:
        raise
    except TimeoutError:
        return ""


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
    job_id = f"remix-{config.name}-{uuid4().hex[:8]}"
    return {
        "entrypoint": ENTRYPOINT,
        "submission_id": job_id,
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
