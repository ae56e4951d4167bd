"""Loads the batches of a plan: this rank's rows, read ahead of the step by a thread."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import islice

import numpy as np
import torch

from pipeline.arrays import Int64Array
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, Step
from pipeline.storage.schemas import ALL
from trainer.data.inputs import by_modality, pinned
from trainer.data.part_prefetcher import Prefetcher, Reads
from trainer.models.model import FUSED
from trainer.process_group import World


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
        steps = enumerate(self._grouped())
        reads = map(self._reads, self.plan.steps(self.start))
        with Prefetcher(self.features, reads, self.world.node_size) as fetcher:

            def load(number: int, grouped: tuple[Step, list[Step]]) -> Batch:
                fetcher.advance(number)
                return self.load(*grouped)

            pool = ThreadPoolExecutor(1, "plan-loader")
            try:
                ahead = deque(pool.submit(load, *item) for item in islice(steps, self.prefetch))
                while ahead:
                    batch = ahead.popleft().result()
                    ahead.extend(pool.submit(load, *item) for item in islice(steps, 1))
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def _grouped(self) -> Iterator[tuple[Step, list[Step]]]:
        """Each step, and the steps that update the weights together with it."""
        steps = self.plan.steps(self.start)
        while group := list(islice(steps, self.accumulate)):
            yield from ((step, group) for step in group)

    def load(self, step: Step, group: Sequence[Step] = ()) -> Batch:
        """Load one batch. `group`: the steps of its update; by default, only this one."""
        group = group or [step]
        own = step.slice_of(self.world.rank, self.world.size)
        rows, names = step.rows[own], self.features.modalities
        masks = None if step.assigned is None else step.trained(names)
        num_valid = self._num_valid(step)
        return Batch(
            step=step,
            num_steps=len(self.plan),
            rows=torch.from_numpy(rows.copy()),
            labels=torch.from_numpy(self.features.labels[rows]).long(),
            inputs={
                name: pinned(torch.from_numpy(self.features.read(name, rows)), self.world.device)
                for name, rows in self._reads(step)
            },
            present=by_modality(names, self.features.has[rows]),
            unmasked=None if masks is None else by_modality(names, masks[own]),
            num_valid=dict(zip(names, num_valid.tolist(), strict=True)),
            divisors=self._divisors(step, num_valid, group),
            starts_update=step.step == group[0].step,
            ends_update=step.step == group[-1].step,
        )

    def _num_valid(self, step: Step) -> Int64Array:
        """Number of rows (K,) of the global batch that have each modality unmasked."""
        valid = self.features.has[step.rows]
        if step.assigned is not None:
            valid = valid & step.trained(self.features.modalities)
        num_valid: Int64Array = valid.sum(axis=0)
        return num_valid

    def _divisors(
        self, step: Step, num_valid: Int64Array, group: Sequence[Step]
    ) -> dict[str, float]:
        """Divisors of a step's losses by head.

        Steps that train the same are averaged as one batch; different ones by their numbers of
        rows.
        """
        alike = [
            other
            for other in group
            if other.modality == step.modality
            and (other.assigned is None) == (step.assigned is None)
        ]
        num_rows = sum(len(other.rows) for other in group)
        scale = num_rows / sum(len(other.rows) for other in alike)
        others = [self._num_valid(other) for other in alike if other.step != step.step]
        divisors = scale * np.sum([num_valid, *others], axis=0)
        names = self.features.modalities
        return {FUSED: num_rows, **dict(zip(names, divisors.tolist(), strict=True))}

    def _reads(self, step: Step) -> Reads:
        rows = step.for_rank(self.world.rank, self.world.size)
        return [
            (name, rows)
            for name in self.features.modalities
            if step.modality in (ALL, name) or not self.skip_masked
        ]
