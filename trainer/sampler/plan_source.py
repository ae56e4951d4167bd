"""Where plans come from: a plan file, a run, or the service."""

import os
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import ConfigError, MissingError
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.locks import dead_owner
from pipeline.storage.schemas import PLAN
from pipeline.storage.store_path import StorePath
from pipeline.store_names import path_of
from trainer.sampler.download import download, is_run_url, is_url, public, run_at

POLL_SECONDS = 1.0
"""Time between two looks for a plan that is waited for."""
CONTINUE = "train fewer epochs, or continue the run with `remix train --resume`"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSource:
    """A plan, or a run with a plan for each epoch, in files or at the service."""

    at: str | StorePath
    """URL or path."""
    is_run: bool
    wait: bool | float
    """Whether to wait for a plan while its run goes on, or how many seconds at most."""
    token: str | None
    retries: int
    timeout: float

    @classmethod
    def of(
        cls,
        source: "str | os.PathLike[str] | StorePath",
        *,
        wait: bool | float,
        token: str | None,
        retries: int,
        timeout: float,
    ) -> "PlanSource":
        """Parse a URL, a path, or the name of a run in the store. Raises StoreError."""
        if not wait >= 0:  # or NaN
            raise ConfigError(f"wait is {wait!r}", "pass True, False or a number of seconds")
        if is_url(source):
            at: str | StorePath = str(source)
            is_run = is_run_url(str(source))
        else:
            at = StorePath.at(path_of(source, "runs"))
            is_run = (at / "run.json").exists()
        return cls(at=at, is_run=is_run, wait=wait, token=token, retries=retries, timeout=timeout)

    def plan(self, epoch: int) -> str | StorePath:
        """URL or path of the plan, or of the plan of an epoch of the run."""
        if not self.is_run:
            return self.at
        if isinstance(self.at, str):
            parts = urlsplit(self.at)
            return parts._replace(path=f"{parts.path.rstrip('/')}/plans/{epoch}").geturl()
        return self.at / "plans" / f"epoch-{epoch:04d}.arrow"

    def open(self, epoch: int) -> BatchFile:
        """Open the plan, that of an epoch of a run once it exists.

        Raises:
            MissingError: the plan does not exist, and is not waited for, or the run has ended.
            DataError, MismatchError, StoreError: it cannot be read.
        """
        if self.is_run:
            self._await(epoch)
        plan = self.plan(epoch)
        if isinstance(plan, str):
            return download(plan, **self._options)
        return BatchFile(plan, PLAN)

    @property
    def _options(self) -> dict[str, Any]:
        token = self.token or os.environ.get("REMIX_TOKEN")
        return {"token": token, "retries": self.retries, "timeout": self.timeout}

    def _await(self, epoch: int) -> None:
        """Wait until a run has the plan of an epoch. Raises MissingError if it will not."""
        start = time.monotonic()
        while True:
            state, goes_on, has_plan = self._look(epoch)
            if has_plan:
                return
            what = f"{name_of(self.at)} has no plan of epoch {epoch}: the run is {state}"
            if not goes_on:
                raise MissingError(what, CONTINUE)
            if self.wait is False or time.monotonic() - start >= self._seconds:
                raise MissingError(what, "wait for it with wait=True, or longer")
            time.sleep(min(POLL_SECONDS, self._seconds))

    @property
    def _seconds(self) -> float:
        return float("inf") if self.wait is True else self.wait

    def _look(self, epoch: int) -> tuple[str, bool, bool]:
        """The state of a run, whether it goes on, and whether it has the plan of an epoch."""
        if isinstance(self.at, str):
            run = run_at(self.at, **self._options)
            has_plan = epoch in run["plans"]
        else:
            # in this order, so that a plan written before the run ended is not missed
            run = (self.at / "run.json").read_json()
            has_plan = (self.at / "plans" / f"epoch-{epoch:04d}.arrow").exists()
            dead = self.at.local and dead_owner(self.at.local / ".lock")
            if dead and not has_plan:
                return f"dead, as {dead} has ended", False, False
        return run["status"], run["status"] in ("created", "running"), has_plan


def name_of(at: str | StorePath) -> str:
    """A URL or path for messages."""
    return public(at) if isinstance(at, str) else str(at)
