"""The FLOPs of a run, compared with sums over the layers of a small model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.plans.plan import BatchPlan
from tests.support.stores import make_features, run_config
from trainer.cost import Meter, cost_of
from trainer.launch import launch
from trainer.run_directory import Run


class Products:
    """FLOPs per row of the layers of the small model below."""

    def __init__(self) -> None:
        # a multiply-add per weight and position; each convolution halves the side: 4, 2, 1, 1
        convolutions = [
            2 * 9 * before * after * side**2
            for before, after, side in ((1, 4, 4), (4, 8, 2), (8, 16, 1), (16, 32, 1))
        ]
        linears = [2 * 6 * 16, 2 * 16 * 16]
        self.heads, self.fusion = {"sight": 2 * 32 * 3, "touch": 2 * 16 * 3}, 2 * 48 * 3
        self.forward = {"sight": sum(convolutions), "touch": sum(linears)}
        # backward costs as much for the weights, and again for the input if a weight precedes it
        self.encode = {
            "sight": 3 * sum(convolutions) - convolutions[0],
            "touch": 3 * sum(linears) - linears[0],
        }

    def trained(self, run: Run, has: np.ndarray[Any, Any], mask: str, method: str) -> int:
        """FLOPs of the training steps of three epochs."""
        expected = 0
        for epoch in range(3):
            for step in BatchPlan.open(run.plan(epoch)).steps():
                n, masked = (
                    len(step.rows),
                    {
                        name: step.modality not in ("all", name) and method == "remix"
                        for name in self.heads
                    },
                )
                for k, name in enumerate(
                    self.heads
                ):  # a masked modality's head runs on zeros, and has no gradient
                    runs = 0 if masked[name] and mask == "skip" else has[step.rows, k].sum()
                    expected += self.encode[name] * runs
                    expected += n * self.heads[name] * (1 if masked[name] else 3)
                expected += n * 3 * self.fusion
        return expected

    def predicted(self, has: np.ndarray[Any, Any]) -> int:
        """FLOPs of one forward pass over rows with these modalities."""
        return (
            sum(
                has[:, k].sum() * self.forward[name] + len(has) * self.heads[name]
                for k, name in enumerate(self.heads)
            )
            + len(has) * self.fusion
        )


@pytest.mark.parametrize(
    ("mask", "method"), [("skip", "remix"), ("feature", "remix"), ("skip", "reassemble")]
)
def test_the_cost_of_a_run_is_the_sum_over_its_layers(
    tmp_path: Path, mask: str, method: str
) -> None:
    shapes = {"sight": ((1, 8, 8), "float32"), "touch": ((6,), "float32")}
    features = make_features(
        tmp_path / "features" / "made", shapes, num_rows=100, num_classes=3, missing=0.3
    )
    small = {
        "mask": mask,
        "encoder": {"kind": "cnn", "width": 4, "norm": "group"},
        "encoders": {"touch": {"kind": "mlp", "hidden": 16}},
    }
    config = run_config(
        tmp_path,
        model=small,
        train={"epochs": 3, "warmup_epochs": 1, "rescore_every": 2},
        method=method,
    )
    run, products = launch(config), Products()
    meter = Meter(config, features)
    steps = products.trained(run, features.has, mask, method)
    assert sum(meter.train(run.open_plan(epoch)) for epoch in range(3)) == steps
    rows = [features.rows_of(split) for split in ("train", "validation")]
    scored, validated = (products.predicted(features.has[own]) for own in rows)
    assert meter.training(run) == steps + scored + 3 * validated
    assert cost_of(run, meter, 1)["flops"] == meter.training(run)
    resampled = run_config(  # needs a second pass over what is scored
        tmp_path,
        model=small,
        train=config.train.model_dump(),
        method=method,
        plan={"copies": "resample"},
    )
    assert Meter(resampled, features).training(run) == meter.training(run) + scored
