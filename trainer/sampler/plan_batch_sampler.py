"""PlanBatchSampler: train your own PyTorch loop by a plan, without Ray or a run of Remix."""

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from torch.utils.data import BatchSampler

from pipeline.errors import ConfigError
from pipeline.plans.plan import Step
from trainer.sampler.plan_steps import Batch, PlanSteps


# PlanSteps has the constructor: Lightning records the arguments of constructors of BatchSampler's
# subclasses, and would report that `sampler` is missing, not what `batch_size` reports
class PlanBatchSampler(PlanSteps, BatchSampler):
    """Batch sampler whose batches are the steps of a plan, or of each epoch of a run, for one rank.

    A batch is a list of row numbers or, with `with_modality`, of pairs (row, modality to train).
    Every pass begins at the first step, except the first one after `load_state_dict`. A pickled
    sampler reads its source again. It has no batch size, and cannot be divided among processes by
    a framework, since it does that itself: reading `batch_size` is an error.

    One record batch of the plan is in memory at a time and, while the plan is checked, one byte per
    row of the data, at most 128 MiB.

    Args:
        source: A plan file (a path, a pyarrow.fs URI or a StorePath), or a URL of the service:
            http://HOST:PORT/v1/plans/FINGERPRINT or http://HOST:PORT/v1/runs/RUN/plans/EPOCH.
            A URL is downloaded to a temporary file. Or a run, whose epochs `set_epoch` selects: its
            folder, its name in the store (REMIX_STORE or ./store), or
            http://HOST:PORT/v1/runs/RUN.
        rank: Rank of this process, by default that of torch.distributed if it is initialised, else
            0; it gets a contiguous part of each global batch.
        world_size: Number of ranks, by default that of torch.distributed, else 1.
        fingerprint: Fingerprint that the plan must have.
        num_rows: Number of rows of the data; a plan with other rows is an error.
        with_modality: Yield pairs (row, modality), with "all" for rows that train all modalities.
        wait: Wait for a plan that a run has not yet made: True, as long as the run goes on; a
            number, so many seconds at most.
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
        sampler = remix.PlanBatchSampler("plans/epoch-0011.arrow")
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=4)

        sampler = remix.PlanBatchSampler("demo-remix-seed0", wait=True)  # a run
        sampler.set_epoch(11)
    """

    drop_last = False

    @property
    def sampler(self) -> "PlanBatchSampler":  # type: ignore[override]
        """The sampler itself: Lightning calls `set_epoch` of this attribute."""
        return self

    @property
    def batch_size(self) -> NoReturn:  # type: ignore[override]
        """Raises ConfigError: a framework reads it to divide the batches among processes."""
        raise ConfigError(
            "PlanBatchSampler has no batch_size: it divides each step of the plan among the "
            "processes itself, and must not be divided again",
            "in Lightning, set Trainer(use_distributed_sampler=False). With Accelerate, use "
            "prepare_data_loader(loader, num_processes=1, process_index=0): see docs/recipes.md",
        )

    def __len__(self) -> int:
        """Number of steps of the next pass.

        Raises TypeError for a run, since its epochs have different numbers of steps: a framework
        would apply the first epoch's number to all of them. Use `num_steps`.
        """
        if self.is_run:
            raise TypeError("the epochs of a run have different numbers of steps: use num_steps")
        return self.num_steps - self._start

    def __iter__(self) -> "Iterator[Batch]":  # type: ignore[override]
        return _Pass(self)


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
