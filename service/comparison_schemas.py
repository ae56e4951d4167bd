"""Response models of comparisons. Accuracies are in [0, 1]; p values are two-sided."""

from typing import Literal

from pydantic import Field

from service.schemas import EpochModality, Schema


class ComparisonSummary(Schema):
    """A comparison in a list."""

    name: str
    """The name of the comparison."""
    status: Literal["finished"] = "finished"
    """Always `finished`: unfinished comparisons are not listed."""
    methods: list[str]
    """The names of the compared methods."""
    seeds: list[int]
    """The seeds that every method was trained with."""


class Spread(Schema):
    """A number measured once per seed."""

    mean: float
    """The mean over seeds."""
    sd: float | None = None
    """The sample standard deviation over seeds; null for a single seed."""
    each: list[float]
    """The value for each seed, in the order of `seeds`."""


class MethodCost(Schema):
    """What a method costs, averaged over seeds."""

    expansion: float
    """Samples drawn per epoch after warm-up, divided by the samples of the train split."""
    epoch_seconds: float
    """Seconds per epoch after warm-up: scoring, planning, loading and steps."""
    flops: float
    """Floating-point operations of the complete run, including evaluation."""
    flops_ratio: float
    """`flops` relative to the reference: `joint_heads` if compared, else the first method."""


class MethodResult(Schema):
    """The results of one method, over seeds."""

    method: str
    """The name of the method."""
    accuracy: dict[str, Spread]
    """Test accuracy of `fused` and of each unimodal head; untrained heads are absent."""
    num_steps: float
    """The number of training steps, averaged over seeds."""
    time_ratio: float | None
    """Training time relative to the reference; null if unknown."""
    zero_mask_accuracy: dict[str, Spread] = Field(default={})
    """Test accuracy of the fused head when all modalities but one are masked with zeros.

    Empty without `train.diagnostics`.
    """
    cost: MethodCost | None = None
    """The cost; null in comparisons of versions that did not measure it."""


class PairTest(Schema):
    """Statistical tests between two methods, on the test accuracy of the fused head."""

    pair: str
    """The two methods, as `FIRST - SECOND`."""
    difference: float
    """Accuracy of the first method minus that of the second, averaged over seeds."""
    sd: float | None = None
    """The standard deviation of the difference over seeds; null for a single seed."""
    paired_t_p: float | None = None
    """p of the paired t-test over seeds; null for a single seed."""
    mcnemar_p: list[float]
    """p of the exact McNemar test over test samples, one value per seed."""


class CurvePoint(Schema):
    """One epoch of one run of a comparison."""

    method: str
    """The method of the run."""
    seed: int
    """The seed of the run."""
    epoch: int
    """The epoch, counted from 0."""
    validation_accuracy: float | None
    """Validation accuracy of the fused head."""
    modalities: dict[str, EpochModality]
    """The numbers of each modality."""
    churn: float | None
    """Fraction of samples that changed modality since the previous epoch; null if undefined."""


class ComparisonDetail(Schema):
    """A comparison of methods, each trained with the same seeds."""

    name: str
    """The name of the comparison."""
    seeds: list[int]
    """The seeds that every method was trained with."""
    methods: list[MethodResult]
    """The results of each method."""
    tests: list[PairTest]
    """The statistical tests between each pair of methods."""
