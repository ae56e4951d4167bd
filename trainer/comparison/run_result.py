"""Results of one finished run."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.arrays import BoolArray
from trainer.comparison.methods import trains_heads
from trainer.config import RunConfig
from trainer.cost import Meter, cost_of
from trainer.models.model import FUSED
from trainer.run_directory import Run

ASSEMBLED = "assembled"
KINDS = (FUSED, ASSEMBLED)
"""The two accuracies of a method: by the paper's protocol, the fused head of the tested epoch; and
of the assembled model."""

Accuracy = dict[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """Test results and cost of one finished run."""

    run: str
    """Name of the run."""
    method: str
    seed: int
    accuracy: Accuracy
    """Test accuracy of `fused`, `assembled` and each modality's own head.

    None if no test sample has the modality, or the head was not trained; without train.assemble
    there is no `assembled`.
    """
    zero_mask: Accuracy
    """Test accuracy of the fused head with one modality only; empty without diagnostics."""
    correct: dict[str, BoolArray]
    """(n,) whether each of KINDS is right, per test sample."""
    tuned: dict[str, Any]
    """Values of fields of the configuration that were chosen for the method."""
    tested_epoch: int
    """The epoch whose model was tested."""
    in_warmup: bool
    """Whether the tested epoch is one of the warm-up, which is the same for every method."""
    readout: str | None
    """The readout of the assembled model."""
    cost: dict[str, Any]
    """As cost_of."""
    epochs: pa.Table
    """epochs.arrow of the run."""


def run_result_of(
    run: Run, config: RunConfig, method: str, meter: Meter, tuned: dict[str, Any]
) -> RunResult:
    """Read the result of a finished run."""
    test, result = run.test(), run.metadata["result"]
    trained, label = trains_heads(config), test["label"].to_numpy()
    assembled = result.get("assembled")
    accuracy = {FUSED: result["test_accuracy"][FUSED]}
    if assembled:
        accuracy[ASSEMBLED] = assembled["test_accuracy"][FUSED]
    accuracy |= {
        head: value if trained else None
        for head, value in result["test_accuracy"].items()
        if head != FUSED
    }
    return RunResult(
        run=config.name,
        method=method,
        seed=config.seed,
        accuracy=accuracy,
        zero_mask=result.get("zero_mask_accuracy", {}),
        correct={
            kind: test[f"predicted_{kind}"].to_numpy() == label
            for kind in KINDS
            if kind in accuracy
        },
        tuned=tuned,
        tested_epoch=result["best_epoch"],
        in_warmup=result["best_epoch"] < config.train.warmup_epochs,
        readout=assembled and assembled["readout"],
        cost=cost_of(run, meter, config.train.warmup_epochs),
        epochs=run.epochs(),
    )
