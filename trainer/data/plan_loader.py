"""Batches by plan: the rows of this rank, read from the memory-mapped tables ahead of the step by a thread."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, Step
from pipeline.storage.schemas import ALL
from trainer.data.part_prefetcher import Ahead, Reads
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


class PlanLoader:
    """Iterates over the batches of a plan from step `start` on; `prefetch` of them are prepared ahead."""

    def __init__(
        self,
        features: FeatureSet,
        plan: BatchPlan,
        *,
        start: int,
        world: World,
        skip_masked: bool,
        prefetch: int,
    ) -> None:
        self._features = features
        self._plan = plan
        self._start = start
        self._world = world
        self._skip_masked = skip_masked
        self._prefetch = prefetch
        self._pin = world.device.type == "cuda"

    def __iter__(self) -> Iterator[Batch]:
        ahead: queue.Queue[Batch | BaseException | None] = queue.Queue(self._prefetch)
        stop = threading.Event()
        thread = threading.Thread(
            target=self._fill, args=(ahead, stop), name="plan-loader", daemon=True
        )
        thread.start()
        try:
            while (item := ahead.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():
                with_room(ahead)
                thread.join(timeout=0.05)

    def _fill(
        self, ahead: "queue.Queue[Batch | BaseException | None]", stop: threading.Event
    ) -> None:
        try:
            with Ahead(self._features, map(self._reads, self._plan.steps(self._start))) as fetcher:
                for number, step in enumerate(self._plan.steps(self._start)):
                    if stop.is_set():
                        return
                    fetcher.reach(number)
                    ahead.put(self.load(step))
            ahead.put(None)
        except BaseException as error:
            ahead.put(error)

    def load(self, step: Step) -> Batch:
        """One batch, now."""
        mine = step.slice_of(self._world.rank, self._world.size)
        rows, names = step.rows[mine], self._features.modalities
        has, valid, keep = self._features.has[rows], self._features.has[step.rows], None
        if step.assigned is not None:
            kept = step.trained(names)
            valid, keep = (
                valid & kept,
                {name: torch.from_numpy(kept[mine, k].copy()) for k, name in enumerate(names)},
            )
        return Batch(
            step=step,
            num_steps=len(self._plan),
            rows=torch.from_numpy(rows.copy()),
            labels=torch.from_numpy(self._features.labels[rows]).long(),
            inputs={
                name: self._pinned(torch.from_numpy(self._features.read(name, rows)))
                for name, rows in self._reads(step)
            },
            has={name: torch.from_numpy(has[:, k].copy()) for k, name in enumerate(names)},
            keep=keep,
            num_valid={name: int(valid[:, k].sum()) for k, name in enumerate(names)},
        )

    def _reads(self, step: Step) -> Reads:
        rows = step.for_rank(self._world.rank, self._world.size)
        return [
            (name, rows)
            for name in self._features.modalities
            if step.modality in (ALL, name) or not self._skip_masked
        ]

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self._pin else tensor


def with_room(ahead: "queue.Queue[Batch | BaseException | None]") -> None:
    """Empties the queue, so that a thread that waits to put its last item can end."""
    while not ahead.empty():
        ahead.get_nowait()
