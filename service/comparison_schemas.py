"""What the service says of comparisons."""

from typing import Literal

from pydantic import Field

from service.schemas import EpochModality, Schema


class ComparisonSummary(Schema):
    """A comparison in a list."""

    name: str
    status: Literal["finished"] = "finished"
    methods: list[str]
    seeds: list[int]


class Spread(Schema):
    """A number over seeds."""

    mean: float
    sd: float | None = None
    each: list[float]


class MethodCost(Schema):
    """What a method took, as means over seeds."""

    expansion: float
    """Rows drawn in an epoch after warm-up, per sample of the train split."""
    epoch_seconds: float
    """Of such an epoch."""
    flops: float
    """Of the whole run, evaluations included."""
    flops_ratio: float


class MethodResult(Schema):
    """One method of a comparison, over seeds."""

    method: str
    accuracy: dict[str, Spread]
    """Test accuracy by head: fused, and each modality's where it was trained."""
    num_steps: float
    time_ratio: float | None
    zero_mask_accuracy: dict[str, Spread] = Field(default={})
    """Test accuracy of the fused head when a modality shows alone; empty without diagnostics."""
    cost: MethodCost | None = None


class PairTest(Schema):
    """Two methods against each other on fused test accuracy."""

    pair: str
    difference: float
    sd: float | None = None
    paired_t_p: float | None = None
    mcnemar_p: list[float]


class CurvePoint(Schema):
    """One epoch of one run of a comparison."""

    method: str
    seed: int
    epoch: int
    validation_accuracy: float | None
    modalities: dict[str, EpochModality]
    churn: float | None


class ComparisonDetail(Schema):
    """Methods times seeds: the table, its tests, and the runs behind it."""

    name: str
    seeds: list[int]
    methods: list[MethodResult]
    tests: list[PairTest]
