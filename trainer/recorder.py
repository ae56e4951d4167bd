"""What a run writes down: every step that was taken, every epoch, the test, and TensorBoard's event files."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.tensorboard import SummaryWriter

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.storage.schemas import ALL
from trainer.data.plan_loader import Batch
from trainer.models.model import FUSED
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.predictor import Evaluation
from trainer.strategies.base import StepOutput


class Recorder:
    """Keeps the steps since the last checkpoint; rank 0 writes them when they are flushed."""

    def __init__(
        self,
        run: Run,
        features: FeatureSet,
        world: World,
        epoch: int,
        step: int,
        *,
        masks: bool = True,
    ) -> None:
        self._run, self._features, self._world = run, features, world
        self._masks = masks
        self._steps: list[dict[str, Any]] = []
        self._taken: list[StepOutput] = []
        self._board: SummaryWriter | None = None
        if world.is_rank_zero:
            run.rewind(epoch, step)
            if run.path.local:
                self._board = SummaryWriter(str(run.path.local / "tensorboard"), purge_step=epoch)

    def step(
        self,
        epoch: int,
        batch: Batch,
        taken: StepOutput,
        *,
        wait_seconds: float,
        step_seconds: float,
    ) -> None:
        """Notes a step; its numbers stay on the device until `flush`."""
        modality, names = batch.step.modality, self._features.modalities
        trained = names if modality == ALL or not self._masks else [modality]
        self._steps.append(
            {
                "epoch": epoch,
                "step": batch.step.step,
                "modality": modality,
                "world_size": self._world.size,
                "num_rows": len(batch.step.rows),
                **{f"num_rows_{name}": batch.num_valid[name] * (name in trained) for name in names},
                "rows_hash": batch.step.rows_hash,
                "wait_seconds": wait_seconds,
                "step_seconds": step_seconds,
            }
        )
        self._taken.append(taken)

    def flush(self) -> None:
        """Sums the steps' numbers over the ranks and writes them; every rank calls this alike."""
        if not self._steps:
            return
        losses = self._world.sum(torch.stack([taken.loss.double() for taken in self._taken]))
        correct = self._world.sum(torch.stack([taken.num_correct for taken in self._taken]))
        heads = ["num_correct", *(f"num_correct_{name}" for name in self._features.modalities)]
        for step, loss, counts in zip(self._steps, losses.tolist(), correct.tolist(), strict=True):
            step |= {"loss": loss, **dict(zip(heads, counts, strict=True))}
        if self._world.is_rank_zero:
            self._run.write_steps(self._steps, self._features.modalities)
        self._steps, self._taken = [], []

    def epoch(
        self,
        epoch: int,
        plan: BatchPlan,
        found: Evaluation,
        lr: float,
        times: dict[str, float],
        diagnosed: dict[str, float | None],
    ) -> dict[str, Any]:
        """Adds the epoch's row to epochs.arrow; all of it follows from the steps' log, the plan's statistics and the validation."""
        self.flush()
        if not self._world.is_rank_zero:
            return {}
        steps = self._run.steps(epoch)
        numbers = steps.drop_columns(["modality", "rows_hash"])
        sums = {name: numbers[name].to_numpy().sum().item() for name in numbers.column_names}
        stats = self._run.plan_stats(epoch).read_json()
        row: dict[str, Any] = {
            "epoch": epoch,
            "policy": plan.metadata["policy"],
            "num_steps": steps.num_rows,
            "num_rows": sums["num_rows"],
            "learning_rate": lr,
            "train_loss": float(
                np.average(steps["loss"].to_numpy(), weights=steps["num_rows"].to_numpy())
            ),
            "train_accuracy": sums["num_correct"] / sums["num_rows"],
            "validation_loss": found.loss,
            "validation_accuracy": found.accuracy[FUSED],
        }
        for name in self._features.modalities:
            right, trained = sums[f"num_correct_{name}"], sums[f"num_rows_{name}"]
            row |= {
                f"train_accuracy_{name}": right / trained if trained else None,
                f"validation_accuracy_{name}": found.accuracy[name],
                f"share_{name}": stats["modalities"].get(name, {}).get("share"),
            }
        seconds = sums["wait_seconds"] + sums["step_seconds"]
        row |= {
            "churn": stats["churn"],
            "rho": found.rho,
            "load_seconds": sums["wait_seconds"],
            "step_seconds": sums["step_seconds"],
            **times,
            **diagnosed,
            "samples_per_second": sums["num_rows"] / max(seconds, 1e-9),
        }
        self._run.write_epoch(row, self._features.modalities)
        if self._board:
            for key, value in row.items():
                if isinstance(value, int | float) and key != "epoch":
                    self._board.add_scalar(key, value, epoch)
            self._board.flush()
        return row

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._board:
            self._board.close()


def write_test(run: Run, features: FeatureSet, found: pa.Table) -> None:
    """Writes test.arrow: one row a test sample, what each head predicted and the probability it gave the label."""
    samples = features.samples.select(["row", "sample_id", "label"]).take(found["row"])
    for name in found.column_names[1:]:
        samples = samples.append_column(name, found[name])
    run.write_test(samples.combine_chunks())
