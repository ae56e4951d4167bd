"""Loads the batches of a plan: this rank's rows, read ahead of the step by threads."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import islice

import numpy as np
import torch

from pipeline.arrays import FloatArray, Int64Array
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, Step
from pipeline.storage.schemas import ALL
from trainer.data.inputs import by_modality, pinned
from trainer.data.part_prefetcher import Prefetcher, Reads
from trainer.models.model import FUSED
from trainer.process_group import World

THREADS = 2
"""Threads that read batches of a local store; one does not use the memory's bandwidth."""
BLOCK_STEPS = 64
"""Steps whose labels, presence and divisors are computed at once."""
FREED_BYTES = 2**25 - 2**13
"""The largest block that raises glibc's thresholds when it is freed, see mallopt(3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """This rank's slice of a global batch, as stored, on the CPU."""

    step: Step
    num_steps: int  # in the plan
    rows: torch.Tensor  # (B,) int64
    labels: torch.Tensor  # (B,) int64
    inputs: dict[str, torch.Tensor]  # modality -> (B, *shape); only modalities that the step reads
    present: dict[str, torch.Tensor]  # modality -> (B,) bool: rows that have the modality
    # modality -> (B,) bool: rows in which it is not masked; None if all rows have the same masks
    unmasked: dict[str, torch.Tensor] | None
    # modality -> number of rows of the *global* batch that have it unmasked
    num_valid: dict[str, int]
    # head ("fused" or modality) -> divisor of the sum of its losses over the global batch; with
    # `accumulate` it counts the rows of all steps that update the weights together
    divisors: dict[str, float]
    starts_update: bool  # whether it is the first step of an update of the weights
    ends_update: bool  # whether it is the last one


@dataclass(frozen=True, slots=True)
class PlanLoader:
    """Iterates over the batches of a plan from step `start`; loads `prefetch` batches ahead.

    `accumulate` steps update the weights together; `start` is the first of such steps.
    """

    features: FeatureSet
    plan: BatchPlan
    _: KW_ONLY
    start: int
    world: World
    skip_masked: bool
    prefetch: int
    accumulate: int = 1

    def __iter__(self) -> Iterator[Batch]:
        # from now on glibc reuses the memory of batches; new pages cost as much as their bytes
        np.empty(FREED_BYTES, np.uint8)
        reads = map(self._reads, self.plan.steps(self.start))
        with Prefetcher(self.features, reads, self.world.node_size) as fetcher:

            def load(number: int, batch: Batch) -> Batch:
                fetcher.advance(number)
                return self._with_inputs(batch)

            # the node's cache is read in the order of the plan
            threads = 1 if self.features.cache else min(THREADS, self.prefetch)
            pool = ThreadPoolExecutor(threads, "plan-loader")
            try:
                batches = enumerate(self._batches())
                ahead = deque(pool.submit(load, *item) for item in islice(batches, self.prefetch))
                while ahead:
                    batch = ahead.popleft().result()
                    ahead.extend(pool.submit(load, *item) for item in islice(batches, 1))
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def load(self, steps: Sequence[Step]) -> list[Batch]:
        """Load the batches of steps; each `accumulate` of them update the weights together."""
        return [self._with_inputs(batch) for batch in self._block(steps)]

    def _batches(self) -> Iterator[Batch]:
        """The batches without their inputs."""
        steps = self.plan.steps(self.start)
        num_steps = self.accumulate * max(1, BLOCK_STEPS // self.accumulate)
        while block := list(islice(steps, num_steps)):
            yield from self._block(block)

    def _block(self, steps: Sequence[Step]) -> Iterator[Batch]:
        """The batches of complete updates, without their inputs; their tensors share memory."""
        names = self.features.modalities
        rows = np.concatenate([step.rows for step in steps])
        has, labels = self.features.has[rows], self.features.labels[rows]
        is_mixed = steps[0].assigned is not None
        masks = np.concatenate([step.trained(names) for step in steps]) if is_mixed else None
        sizes = np.array([len(step.rows) for step in steps])
        starts = np.cumsum(sizes) - sizes
        valid = has if masks is None else has & masks
        num_valid = np.add.reduceat(valid, starts, axis=0, dtype=np.int64)  # (steps, K)
        divisors = self._divisors(steps, sizes, num_valid)
        columns = {"rows": torch.from_numpy(rows), "labels": torch.from_numpy(labels).long()}
        present = by_modality(names, has)
        unmasked = None if masks is None else by_modality(names, masks)
        for i, step in enumerate(steps):
            first, own = int(starts[i]), step.slice_of(self.world.rank, self.world.size)
            own = slice(first + own.start, first + own.stop)
            yield Batch(
                step=step,
                num_steps=len(self.plan),
                rows=columns["rows"][own],
                labels=columns["labels"][own],
                inputs={},
                present={name: present[name][own] for name in names},
                unmasked=unmasked and {name: unmasked[name][own] for name in names},
                num_valid=dict(zip(names, num_valid[i].tolist(), strict=True)),
                divisors=dict(zip([FUSED, *names], divisors[i].tolist(), strict=True)),
                starts_update=i % self.accumulate == 0,
                ends_update=(i + 1) % self.accumulate == 0 or i + 1 == len(steps),
            )

    def _divisors(
        self, steps: Sequence[Step], sizes: Int64Array, num_valid: Int64Array
    ) -> FloatArray:
        """Divisors of the steps' losses, (steps, 1 + K): fused, then by modality.

        Steps of an update that train the same are averaged as one batch; different ones by their
        numbers of rows.

        Args:
            sizes: (steps,) rows of each global batch.
            num_valid: (steps, K) rows of it that have each modality unmasked.
        """
        update = np.arange(len(steps)) // self.accumulate
        keys = zip(update.tolist(), (step.modality for step in steps), strict=True)
        # number of the first step of the same update that trains the same
        firsts: dict[tuple[int, str], int] = {}
        alike = np.array([firsts.setdefault(key, i) for i, key in enumerate(keys)])
        num_rows = np.bincount(update, sizes)[update]
        scale = num_rows / np.bincount(alike, sizes)[alike]
        summed = np.zeros_like(num_valid)
        np.add.at(summed, alike, num_valid)
        return np.column_stack([num_rows, scale[:, None] * summed[alike]])

    def _with_inputs(self, batch: Batch) -> Batch:
        for name, rows in self._reads(batch.step):
            array = self.features.read(name, rows)
            batch.inputs[name] = pinned(torch.from_numpy(array), self.world.device)
        return batch

    def _reads(self, step: Step) -> Reads:
        rows = step.for_rank(self.world.rank, self.world.size)
        return [
            (name, rows)
            for name in self.features.modalities
            if step.modality in (ALL, name) or not self.skip_masked
        ]
