"""Loads the batches of a plan: this rank's rows, read ahead of the step by a thread."""

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


@dataclass(frozen=True, slots=True)
class PlanLoader:
    """Iterates over the batches of a plan from step `start`; loads `prefetch` batches ahead."""

    features: FeatureSet
    plan: BatchPlan
    _: KW_ONLY
    start: int
    world: World
    skip_masked: bool
    prefetch: int

    def __iter__(self) -> Iterator[Batch]:
        steps = enumerate(self.plan.steps(self.start))
        reads = map(self._reads, self.plan.steps(self.start))
        with Prefetcher(self.features, reads, self.world.node_size) as fetcher:

            def load(number: int, step: Step) -> Batch:
                fetcher.advance(number)
                return self.load(step)

            pool = ThreadPoolExecutor(1, "plan-loader")
            try:
                ahead = deque(pool.submit(load, *item) for item in islice(steps, self.prefetch))
                while ahead:
                    batch = ahead.popleft().result()
                    ahead.extend(pool.submit(load, *item) for item in islice(steps, 1))
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def load(self, step: Step) -> Batch:
        """Load one batch."""
        own = step.slice_of(self.world.rank, self.world.size)
        rows, names = step.rows[own], self.features.modalities
        valid, unmasked = self.features.has[step.rows], None
        if step.assigned is not None:
            mask = step.trained(names)
            valid, unmasked = valid & mask, by_modality(names, mask[own])
        return Batch(
            step=step,
            num_steps=len(self.plan),
            rows=torch.from_numpy(rows.copy()),
            labels=torch.from_numpy(self.features.labels[rows]).long(),
            inputs={
                name: self._pinned(torch.from_numpy(self.features.read(name, rows)))
                for name, rows in self._reads(step)
            },
            present=by_modality(names, self.features.has[rows]),
            unmasked=unmasked,
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
