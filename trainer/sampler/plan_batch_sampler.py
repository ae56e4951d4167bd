"""A plan as the batches of an ordinary PyTorch DataLoader, without Ray and without a run of Remix."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import Sampler

from pipeline.errors import ConfigError, DataError, MismatchError
from pipeline.plans.plan import BatchPlan, Step
from pipeline.plans.validation import check_plan
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import PLAN
from pipeline.storage.store_path import StorePath
from trainer.sampler.download import download, fingerprint_in, is_url, public

Batch = list[int] | list[tuple[int, str]]


class PlanBatchSampler(Sampler[Batch]):
    """For each step of a plan the rows of this rank, or pairs (row, what it trains): `DataLoader(dataset, batch_sampler=PlanBatchSampler(source))`.

    `source` is a plan file (a path, a pyarrow.fs URI or a StorePath) or the service's `http://HOST:PORT/v1/plans/FINGERPRINT` or `/v1/runs/RUN/plans/EPOCH`, which is fetched once to
    a temporary file, `retries` times more where the network fails, waiting up to `timeout` seconds at a time, with `token` (else the environment's
    REMIX_TOKEN). The plan is checked in full: against its fingerprint, the one that is expected and the number of rows of the data, where they are given.
    Memory holds one record batch of it, and while it is checked a byte a row of the data, at most 128 MiB.
    A pass begins at the first step, but for the first one after `load_state_dict`, which begins where the state says. Pickled, it reads its source again.
    Raises InputError: ConfigError, MissingError, DataError, MismatchError, StoreError.

    Example:
        sampler = remix.PlanBatchSampler("plans/epoch-0011.arrow", rank=0, world_size=1)
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=4)
    """

    def __init__(
        self,
        source: "str | os.PathLike[str] | StorePath",
        rank: int = 0,
        world_size: int = 1,
        *,
        fingerprint: str | None = None,
        num_rows: int | None = None,
        with_modality: bool = False,
        token: str | None = None,
        retries: int = 5,
        timeout: float = 60.0,
    ) -> None:
        if not (isinstance(rank, int) and isinstance(world_size, int) and 0 <= rank < world_size):
            raise ConfigError(
                f"rank is {rank!r}, world_size {world_size!r}",
                "give integers with 0 <= rank < world_size",
            )
        self.rank = rank
        self.world_size = world_size
        self.with_modality = with_modality
        self._fetching = {"token": token, "retries": retries, "timeout": timeout}
        if is_url(source):
            self._source: str | StorePath = str(source)
            self._name = public(self._source)
            fingerprint = fingerprint or fingerprint_in(self._source)
            self._file = download(
                self._source,
                token=token or os.environ.get("REMIX_TOKEN"),
                retries=retries,
                timeout=timeout,
            )
        else:
            self._source = StorePath.at(source)
            self._name = str(self._source)
            self._file = BatchFile(self._source, PLAN)
        self._num_rows = num_rows
        self._ends = _check_steps(self._file, self._name, world_size, num_rows)
        self.fingerprint = str(self._file.metadata["fingerprint"])
        if fingerprint not in (None, self.fingerprint):
            raise MismatchError(
                f"{self._name} has fingerprint {self.fingerprint}, not {fingerprint}",
                "give the plan that was expected",
            )
        self._start = 0
        self._step = 0

    @property
    def num_steps(self) -> int:
        """The steps of the plan."""
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        """The steps of the next pass."""
        return self.num_steps - self._start

    def __iter__(self) -> "Iterator[Batch]":
        return _Pass(self)

    @property
    def modalities(self) -> Iterator[str]:
        """The modality of each step of the next pass, "all" in warm-up; to be taken before that pass begins."""
        return (step.modality for step in self._steps(self._start))

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """The plan and its next step; a caller whose loader works ahead of training (`num_workers` > 0) names the step that training takes next."""
        return {
            "fingerprint": self.fingerprint,
            "step": self._step if step is None else self._checked(step),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next pass begin at the state's step; it is empty where that is `num_steps`, since the epoch is done (raises MismatchError, ConfigError)."""
        if not {"fingerprint", "step"} <= state.keys():
            raise ConfigError(
                f"the state has {sorted(state)}, not 'fingerprint' and 'step'",
                "give what state_dict() returned",
            )
        if state["fingerprint"] != self.fingerprint:
            raise MismatchError(
                f"the state is of plan {state['fingerprint']}, but {self._name} is {self.fingerprint}",
                "give the plan that it was saved with",
            )
        self._start = self._step = self._checked(state["step"])

    def __reduce__(self) -> tuple[Any, ...]:
        asked: dict[str, Any] = {
            "rank": self.rank,
            "world_size": self.world_size,
            "with_modality": self.with_modality,
            "fingerprint": self.fingerprint,
            "num_rows": self._num_rows,
            **self._fetching,
        }
        state = {"_start": self._start, "_step": self._step}
        return partial(PlanBatchSampler, self._source, **asked), (), state

    def _checked(self, step: object) -> int:
        if not (isinstance(step, int) and 0 <= step <= self.num_steps):
            raise ConfigError(
                f"step is {step!r}, but {self._name} has {self.num_steps} steps",
                f"give an integer from 0 to {self.num_steps}",
            )
        return step

    def _steps(self, start: int) -> Iterator[Step]:
        for batch in self._file.slices(self._ends, start, self.num_steps - start):
            yield from BatchPlan(pa.Table.from_batches([batch])).steps()

    def _begin(self) -> Iterator[Step]:
        self._step, self._start = self._start, 0
        return self._steps(self._step)

    def _batch(self, step: Step) -> Batch:
        self._step = step.step + 1
        rows: list[int] = step.for_rank(self.rank, self.world_size).tolist()
        if not self.with_modality:
            return rows
        if step.assigned is None:
            return [(row, step.modality) for row in rows]
        names = [*self._file.metadata["modalities"], step.modality]  # -1, all of them, is the last
        owners = step.assigned[step.slice_of(self.rank, self.world_size)].tolist()
        return [(row, names[owner]) for row, owner in zip(rows, owners, strict=True)]


class _Pass(Iterator[Batch]):
    """One pass over a plan, whose state torchdata's StatefulDataLoader keeps; it begins when it is first asked, since loaders drop some unasked."""

    def __init__(self, sampler: PlanBatchSampler) -> None:
        self._sampler = sampler
        self._steps: Iterator[Step] | None = None

    def __next__(self) -> Batch:
        if self._steps is None:
            self._steps = self._sampler._begin()
        return self._sampler._batch(next(self._steps))

    def state_dict(self) -> dict[str, Any]:
        """The sampler's, of the pass to come where this one has not begun."""
        return self._sampler.state_dict(self._sampler._start if self._steps is None else None)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the state here and now, so that the pass after this one is a whole one."""
        self._sampler.load_state_dict(state)
        self._steps = self._sampler._begin()


def _check_steps(file: BatchFile, name: str, world_size: int, num_rows: int | None) -> list[int]:
    """The number of steps up to the end of each record batch of a plan that is what it says, with a row for each rank in every step."""
    if not isinstance(file.metadata.get("fingerprint"), str):
        raise DataError(
            f"{name} has no fingerprint in its metadata", "give a plan that Remix wrote"
        )
    fewest: list[tuple[int, int]] = []

    def read() -> Iterator[pa.RecordBatch]:
        for batch in file.batches():
            sizes = np.diff(batch.column("rows").offsets.to_numpy())
            few = np.flatnonzero(sizes < world_size)
            if len(few) and not fewest:
                fewest.append((batch.column("step")[int(few[0])].as_py(), int(sizes[few[0]])))
            yield batch

    ends = check_plan(read, file.schema, file.metadata, name, num_rows)
    if fewest:
        raise ConfigError(
            f"step {fewest[0][0]} of {name} has {fewest[0][1]} rows for {world_size} ranks",
            "use fewer ranks, or a plan of a larger batch size",
        )
    return ends
