"""PlanBatchSampler: train your own PyTorch loop by a plan, without Ray or a run of Remix."""

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
    """Batch sampler whose batches are the steps of a plan, for one rank.

    A batch is a list of row numbers or, with `with_modality`, of pairs (row, modality to train).
    Every pass begins at the first step, except the first one after `load_state_dict`. A pickled
    sampler reads its source again.

    One record batch of the plan is in memory at a time and, while the plan is checked, one byte per
    row of the data, at most 128 MiB.

    Args:
        source: A plan file (a path, a pyarrow.fs URI or a StorePath), or a URL of the service:
            http://HOST:PORT/v1/plans/FINGERPRINT or http://HOST:PORT/v1/runs/RUN/plans/EPOCH.
            A URL is downloaded to a temporary file.
        rank: Rank of this process; it gets a contiguous part of each global batch.
        world_size: Number of ranks.
        fingerprint: Fingerprint that the plan must have.
        num_rows: Number of rows of the data; a plan with other rows is an error.
        with_modality: Yield pairs (row, modality), with "all" for rows that train all modalities.
        token: Bearer token for a URL; by default the environment variable REMIX_TOKEN.
        retries: Further attempts to download after a network failure.
        timeout: Seconds to wait for the network at a time.
    Raises:
        ConfigError: an argument is invalid, or a step has fewer rows than ranks.
        MissingError: the plan does not exist.
        DataError: the plan is damaged or invalid.
        MismatchError: the plan has another fingerprint.
        StoreError: the store or the service cannot be reached.

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
                f"rank is {rank!r}, world_size is {world_size!r}",
                "pass integers with 0 <= rank < world_size",
            )
        self.rank = rank
        self.world_size = world_size
        self.with_modality = with_modality
        self._download_options = {"token": token, "retries": retries, "timeout": timeout}
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
                f"{self._name} has fingerprint {self.fingerprint}, expected {fingerprint}",
                "check that the source is the intended plan",
            )
        self._start = 0
        self._step = 0

    @property
    def num_steps(self) -> int:
        """Number of steps of the plan."""
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        """Number of steps of the next pass."""
        return self.num_steps - self._start

    def __iter__(self) -> "Iterator[Batch]":
        return _Pass(self)

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
        return {
            "fingerprint": self.fingerprint,
            "step": self._step if step is None else self._checked(step),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next pass at the step of a state.

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
        if state["fingerprint"] != self.fingerprint:
            raise MismatchError(
                f"the state belongs to plan {state['fingerprint']}, "
                f"but {self._name} is plan {self.fingerprint}",
                "use the plan that the state was saved with",
            )
        self._start = self._step = self._checked(state["step"])

    def __reduce__(self) -> tuple[Any, ...]:
        arguments: dict[str, Any] = {
            "rank": self.rank,
            "world_size": self.world_size,
            "with_modality": self.with_modality,
            "fingerprint": self.fingerprint,
            "num_rows": self._num_rows,
            **self._download_options,
        }
        state = {"_start": self._start, "_step": self._step}
        return partial(PlanBatchSampler, self._source, **arguments), (), state

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


class _Pass(Iterator[Batch]):
    """One pass over a plan, with the state that torchdata's StatefulDataLoader saves.

    It begins with the first batch and not when it is created, since loaders create some iterators
    that they never use.
    """

    def __init__(self, sampler: PlanBatchSampler) -> None:
        self._sampler = sampler
        self._steps: Iterator[Step] | None = None

    def __next__(self) -> Batch:
        if self._steps is None:
            self._steps = self._sampler._begin()
        return self._sampler._batch(next(self._steps))

    def state_dict(self) -> dict[str, Any]:
        """State of the sampler; before the first batch, that of the pass about to begin."""
        return self._sampler.state_dict(self._sampler._start if self._steps is None else None)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume this pass from the state, so that the next pass is a complete one."""
        self._sampler.load_state_dict(state)
        self._steps = self._sampler._begin()


def _check_steps(file: BatchFile, name: str, world_size: int, num_rows: int | None) -> list[int]:
    """Check a plan, and that every step has at least one row per rank.

    Returns the number of steps up to the end of each record batch.
    """
    if not isinstance(file.metadata.get("fingerprint"), str):
        raise DataError(
            f"{name}: metadata 'remix.fingerprint' is missing", "use a plan that Remix wrote"
        )
    too_small: list[tuple[int, int]] = []

    def read() -> Iterator[pa.RecordBatch]:
        for batch in file.batches():
            sizes = np.diff(batch.column("rows").offsets.to_numpy())
            small = np.flatnonzero(sizes < world_size)
            if len(small) and not too_small:
                number = batch.column("step")[int(small[0])].as_py()
                too_small.append((number, int(sizes[small[0]])))
            yield batch

    ends = check_plan(read, file.schema, file.metadata, name, num_rows)
    if too_small:
        step, num_rows_of_step = too_small[0]
        raise ConfigError(
            f"step {step} of {name} has {num_rows_of_step} rows for {world_size} ranks",
            "use fewer ranks, or a plan with a larger batch size",
        )
    return ends
