"""Logs of a run: steps, epochs, test predictions, and what its loggers get."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.storage.schemas import ALL
from trainer.config import RunConfig
from trainer.data.plan_loader import Batch
from trainer.loggers import Loggers
from trainer.models.model import FUSED
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.strategies.base import StepOutput


class Recorder:
    """Buffers the steps since the last checkpoint; rank 0 writes them on `flush`."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
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
        self._outputs: list[StepOutput] = []
        self._loggers: Loggers | None = None
        if world.is_rank_zero:
            run.rewind(epoch, step)
            self._loggers = Loggers(run, config, epoch)

    def step(
        self,
        epoch: int,
        batch: Batch,
        output: StepOutput,
        *,
        wait_seconds: float,
        step_seconds: float,
    ) -> None:
        """Record a step. Loss and counts stay on the device until `flush`."""
        modality, names = batch.step.modality, self._features.modalities
        active = names if modality == ALL or not self._masks else [modality]
        self._steps.append(
            {
                "epoch": epoch,
                "step": batch.step.step,
                "modality": modality,
                "world_size": self._world.size,
                "num_rows": len(batch.step.rows),
                **{f"num_rows_{name}": batch.num_valid[name] * (name in active) for name in names},
                "rows_hash": batch.step.rows_hash,
                "wait_seconds": wait_seconds,
                "step_seconds": step_seconds,
            }
        )
        self._outputs.append(output)

    def flush(self) -> None:
        """Sum losses and counts over the ranks and write the steps. All ranks must call this."""
        if not self._steps:
            return
        losses = self._world.sum(
            torch.stack([torch.stack([x.loss, x.fused_loss]).double() for x in self._outputs])
        )
        correct = self._world.sum(torch.stack([output.num_correct for output in self._outputs]))
        heads = ["num_correct", *(f"num_correct_{name}" for name in self._features.modalities)]
        for step, (loss, fused), counts in zip(
            self._steps, losses.tolist(), correct.tolist(), strict=True
        ):
            step |= {"loss": loss, "fused_loss": fused, **dict(zip(heads, counts, strict=True))}
        if self._world.is_rank_zero:
            self._run.write_steps(self._steps, self._features.modalities)
        self._steps, self._outputs = [], []

    def epoch(
        self,
        epoch: int,
        plan: BatchPlan,
        columns: dict[str, Any],
    ) -> dict[str, Any]:
        """Append the epoch's row to epochs.arrow and return it, {} on other ranks than 0.

        The row is computed from the log of steps and the plan's statistics; `columns` are added.
        """
        self.flush()
        if not self._world.is_rank_zero:
            return {}
        steps = self._run.steps(epoch)
        numbers = steps.drop_columns(["modality", "rows_hash"])
        sums = {name: numbers[name].to_numpy().sum().item() for name in numbers.column_names}
        weights = steps["num_rows"].to_numpy()
        stats = self._run.plan_stats(epoch).read_json()
        row: dict[str, Any] = {
            "epoch": epoch,
            "policy": plan.metadata["policy"],
            "num_steps": steps.num_rows,
            "num_rows": sums["num_rows"],
            **{
                f"train_{name}": float(np.average(steps[name].to_numpy(), weights=weights))
                for name in ("loss", "fused_loss")
            },
            "train_accuracy": sums["num_correct"] / sums["num_rows"],
        }
        for name in self._features.modalities:
            num_correct, num_rows = sums[f"num_correct_{name}"], sums[f"num_rows_{name}"]
            row |= {
                f"train_accuracy_{name}": num_correct / num_rows if num_rows else None,
                f"share_{name}": stats["modalities"].get(name, {}).get("share"),
            }
        seconds = sums["wait_seconds"] + sums["step_seconds"]
        row |= {
            "churn": stats["churn"],
            "load_seconds": sums["wait_seconds"],
            "step_seconds": sums["step_seconds"],
            **columns,
            "samples_per_second": sums["num_rows"] / max(seconds, 1e-9),
        }
        self._run.write_epoch(row, self._features.modalities)
        self._run.update()  # the time
        if self._loggers:
            self._loggers.epoch(epoch, row)
        return row

    def close(self, result: dict[str, Any] | None = None) -> None:
        """Close the loggers, with the result of the run if there is one."""
        if self._loggers:
            self._loggers.finish(result)


def with_assembled(outcomes: pa.Table, assembled: pa.Table, modalities: list[str]) -> pa.Table:
    """Add the assembled model's predictions to those of the tested epoch's model."""
    names = {FUSED: "assembled", **{name: f"assembled_{name}" for name in modalities}}
    for head, name in names.items():
        for kind in ("predicted", "p_label", "p_predicted"):
            outcomes = outcomes.append_column(f"{kind}_{name}", assembled[f"{kind}_{head}"])
    return outcomes


def write_test(run: Run, features: FeatureSet, outcomes: pa.Table) -> None:
    """Write test.arrow.

    One row per test sample: each head's prediction, and the probabilities that it gives the label
    and the predicted class.
    """
    rows = outcomes["row"].to_numpy()
    samples = pa.table(
        {"row": rows, "sample_id": features.ids_of(rows), "label": features.labels[rows]}
    )
    for name in outcomes.column_names[1:]:
        samples = samples.append_column(name, outcomes[name])
    run.write_test(samples.combine_chunks())
