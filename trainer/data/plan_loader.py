"""Batches by plan: the rows of this rank, read from the memory-mapped tables ahead of the step by a thread."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import islice

import torch

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, Step
from pipeline.storage.schemas import ALL
from trainer.data.inputs import by_modality
from trainer.data.part_prefetcher import Prefetcher, Reads
from trainer.process_group import World


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """This rank's slice of a global batch, raw as in the tables, on the CPU."""

    step: Step
    num_steps: int  # of the plan
    rows: torch.Tensor  # (B,) int64
    labels: torch.Tensor  # (B,) int64
    inputs: dict[str, torch.Tensor]  # name -> (B, *shape), only the modalities that the step reads
    has: dict[str, torch.Tensor]  # name -> (B,) bool
    # name -> (B,) bool: rows that the modality is not masked in, where a batch's rows differ in that
    keep: dict[str, torch.Tensor] | None
    # name -> rows of the *global* batch that have the modality and are not masked one by one
    num_valid: dict[str, int]


@dataclass(frozen=True, slots=True)
class PlanLoader:
    """Iterates over the batches of a plan from step `start` on; `prefetch` of them are prepared ahead."""

    features: FeatureSet
    plan: BatchPlan
    _: KW_ONLY
    start: int
    world: World
    skip_masked: bool
    prefetch: int

    def __iter__(self) -> Iterator[Batch]:
        steps = enumerate(self.plan.steps(self.start))
        with Prefetcher(self.features, map(self._reads, self.plan.steps(self.start))) as fetcher:

            def load(number: int, step: Step) -> Batch:
                fetcher.advance(number)
                return self.load(step)

            pool = ThreadPoolExecutor(1, "plan-loader")
            try:
                ahead = deque(pool.submit(load, *each) for each in islice(steps, self.prefetch))
                while ahead:
                    batch = ahead.popleft().result()
                    ahead.extend(pool.submit(load, *each) for each in islice(steps, 1))
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def load(self, step: Step) -> Batch:
        """One batch, now."""
        mine = step.slice_of(self.world.rank, self.world.size)
        rows, names = step.rows[mine], self.features.modalities
        valid, keep = self.features.has[step.rows], None
        if step.assigned is not None:
            kept = step.trained(names)
            valid, keep = valid & kept, by_modality(names, kept[mine])
        return Batch(
            step=step,
            num_steps=len(self.plan),
            rows=torch.from_numpy(rows.copy()),
            labels=torch.from_numpy(self.features.labels[rows]).long(),
            inputs={
                name: self._pinned(torch.from_numpy(self.features.read(name, rows)))
                for name, rows in self._reads(step)
            },
            has=by_modality(names, self.features.has[rows]),
            keep=keep,
            num_valid=dict(zip(names, valid.sum(axis=0).tolist(), strict=True)),
        )

    def _reads(self, step: Step) -> Reads:
        rows = step.for_rank(self.world.rank, self.world.size)
        return [
            (name, rows)
            for name in self.features.modalities
            if step.modality in (ALL, name) or not self.skip_masked
        ]

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self.world.device.type == "cuda" else tensor
