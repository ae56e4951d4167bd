"""The steps of a plan, or of the plans of a run's epochs, for one rank."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from torch import distributed

from pipeline.errors import ConfigError, DataError, MismatchError
from pipeline.plans.plan import BatchPlan, Step
from pipeline.plans.validation import check_plan
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.store_path import StorePath
from trainer.sampler.download import fingerprint_in
from trainer.sampler.plan_source import PlanSource, name_of

Batch = list[int] | list[tuple[int, str]]


class PlanSteps:
    """The steps of a plan, or of the plan of an epoch of a run; see PlanBatchSampler."""

    def __init__(
        self,
        source: "str | os.PathLike[str] | StorePath",
        rank: int | None = None,
        world_size: int | None = None,
        *,
        fingerprint: str | None = None,
        num_rows: int | None = None,
        with_modality: bool = False,
        wait: bool | float = False,
        token: str | None = None,
        retries: int = 5,
        timeout: float = 60.0,
    ) -> None:
        if (rank, world_size) != (None, None) and not (
            isinstance(rank, int) and isinstance(world_size, int) and 0 <= rank < world_size
        ):
            raise ConfigError(
                f"rank is {rank!r}, world_size is {world_size!r}",
                "pass integers with 0 <= rank < world_size, or neither",
            )
        self._ranks = (rank, world_size)
        self.with_modality = with_modality
        access: dict[str, Any] = {
            "wait": wait,
            "token": token,
            "retries": retries,
            "timeout": timeout,
        }
        self._options = {"num_rows": num_rows, "with_modality": with_modality, **access}
        self._source = PlanSource.of(source, **access)
        self.epoch = 0
        """The selected epoch of a run."""
        self._open(0)
        if isinstance(self._source.at, str):
            fingerprint = fingerprint or fingerprint_in(self._source.at)
        if fingerprint not in (None, self.fingerprint):
            raise MismatchError(
                f"{self._name} has fingerprint {self.fingerprint}, expected {fingerprint}",
                "check that the source is the intended plan",
            )

    @property
    def is_run(self) -> bool:
        """Whether the source is a run, so that `set_epoch` selects its plan."""
        return self._source.is_run

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self._world[0]

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self._world[1]

    @property
    def num_steps(self) -> int:
        """Number of steps of the plan, in a run of that of the selected epoch."""
        return self._ends[-1] if self._ends else 0

    def set_epoch(self, epoch: int) -> None:
        """Select the plan of an epoch of a run; does nothing if the source is a plan.

        Raises:
            MissingError: the run has no such plan, and has ended or is not waited for.
            DataError: the plan is damaged or invalid. StoreError.
        """
        if self.is_run and epoch != self.epoch:
            self._open(epoch)
            self.epoch = epoch

    def _open(self, epoch: int) -> None:
        name, file = name_of(self._source.plan(epoch)), self._source.open(epoch)
        ends, smallest = _check_steps(file, name, self._options["num_rows"])
        self._name, self._file, self._ends, self._smallest = name, file, ends, smallest
        self.fingerprint = str(file.metadata["fingerprint"])
        """Fingerprint of the plan."""
        self._start = self._step = 0
        self._check_ranks()

    @property
    def _world(self) -> tuple[int, int]:
        """Rank and number of ranks: a framework may start its processes after the constructor."""
        rank, world_size = self._ranks
        if rank is not None and world_size is not None:
            return rank, world_size
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def _check_ranks(self) -> None:
        """Check that each rank has a row in every step. Raises ConfigError."""
        num_rows, step = self._smallest
        if self.num_steps and num_rows < self.world_size:
            raise ConfigError(
                f"step {step} of {self._name} has {num_rows} rows for {self.world_size} ranks",
                "use fewer ranks, or a plan with a larger batch size",
            )

    @property
    def modalities(self) -> Iterator[str]:
        """Modality of each step of the next pass, "all" in warm-up. Read before the pass begins."""
        return (step.modality for step in self._steps(self._start))

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """State from which `load_state_dict` resumes.

        Args:
            step: The step that training takes next. Pass it if the loader prefetches
                (`num_workers` > 0), since the sampler is then ahead of training.
        """
        state = {
            "fingerprint": self.fingerprint,
            "step": self._step if step is None else self._checked(step),
        }
        return {"epoch": self.epoch, **state} if self.is_run else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next pass at the step of a state, in a run also at its epoch.

        The pass is empty if the step is `num_steps`, since the epoch is then complete.

        Raises:
            ConfigError: the state is not one of `state_dict`.
            MismatchError: the state is of another plan.
        """
        if not {"fingerprint", "step"} <= state.keys():
            raise ConfigError(
                f"the state has the keys {sorted(state)}, not 'fingerprint' and 'step'",
                "pass a result of state_dict()",
            )
        self.set_epoch(state.get("epoch", self.epoch))
        if state["fingerprint"] != self.fingerprint:
            raise MismatchError(
                f"the state belongs to plan {state['fingerprint']}, "
                f"but {self._name} is plan {self.fingerprint}",
                "use the plan that the state was saved with",
            )
        self._start = self._step = self._checked(state["step"])

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.state_dict(), "start": self._start}
        return partial(type(self), self._source.at, *self._ranks, **self._options), (), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state)
        self._start = state["start"]

    def _checked(self, step: object) -> int:
        if not (isinstance(step, int) and 0 <= step <= self.num_steps):
            raise ConfigError(
                f"step is {step!r}, but {self._name} has {self.num_steps} steps",
                f"pass an integer from 0 to {self.num_steps}",
            )
        return step

    def _steps(self, start: int) -> Iterator[Step]:
        for batch in self._file.slices(self._ends, start, self.num_steps - start):
            yield from BatchPlan(pa.Table.from_batches([batch])).steps()

    def _begin(self) -> Iterator[Step]:
        self._check_ranks()
        self._step, self._start = self._start, 0
        return self._steps(self._step)

    def _batch(self, step: Step) -> Batch:
        self._step = step.step + 1
        rows: list[int] = step.for_rank(self.rank, self.world_size).tolist()
        if not self.with_modality:
            return rows
        if step.assigned is None:
            return [(row, step.modality) for row in rows]
        # the last name is "all", so that index -1 selects it
        names = [*self._file.metadata["modalities"], step.modality]
        assignment = step.assigned[step.slice_of(self.rank, self.world_size)].tolist()
        return [(row, names[index]) for row, index in zip(rows, assignment, strict=True)]


def _check_steps(
    file: BatchFile, name: str, num_rows: int | None
) -> tuple[list[int], tuple[int, int]]:
    """Check a plan.

    Returns the number of steps up to the end of each record batch, and the size and number of the
    smallest step.
    """
    if not isinstance(file.metadata.get("fingerprint"), str):
        raise DataError(
            f"{name}: metadata 'remix.fingerprint' is missing", "use a plan that Remix wrote"
        )
    smallest: list[tuple[int, int]] = []

    def read() -> Iterator[pa.RecordBatch]:
        for batch in file.batches():
            sizes = np.diff(batch.column("rows").offsets.to_numpy())
            if len(sizes):
                number = int(sizes.argmin())
                smallest.append((int(sizes[number]), batch.column("step")[number].as_py()))
            yield batch

    ends = check_plan(read, file.schema, file.metadata, name, num_rows)
    return ends, min(smallest, default=(0, 0))
