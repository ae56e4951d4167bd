"""Response models of comparisons. Accuracies are in [0, 1]; p values are two-sided."""

from typing import Literal

from pydantic import JsonValue

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
    sd: float | None
    """The sample standard deviation over seeds; null for a single seed."""
    low: float | None
    """The lower end of the mean's 95% interval (Student's t); null for a single seed."""
    high: float | None
    """The upper end of the interval."""
    each: list[float]
    """The value for each seed, in the order of `seeds`."""


class MethodCost(Schema):
    """What a method costs, averaged over seeds."""

    expansion: float
    """Samples drawn per epoch after warm-up, divided by the samples of the train split."""
    epoch_seconds: float
    """Seconds per epoch after warm-up: scoring, planning, loading and steps."""
    flops: float
    """Floating-point operations of training: steps, scoring and validation."""
    flops_ratio: float
    """`flops` relative to the reference."""


class TestedEpoch(Schema):
    """The epochs whose models were tested, counted from 0, over seeds."""

    median: float
    """The median."""
    min: int
    """The earliest epoch."""
    max: int
    """The latest epoch."""
    in_warmup: list[str]
    """The names of the runs whose tested epoch is in the warm-up, before any remixing."""


class BudgetRatio(Schema):
    """What a method's training spent of the comparison's `budget`, relative to the reference."""

    median: float
    """The median over seeds."""
    each: list[float]
    """The ratio for each seed, in the order of `seeds`."""


class MethodResult(Schema):
    """The results of one method, over seeds."""

    method: str
    """The name of the method."""
    runs: list[str]
    """The name of the run for each seed, in the order of `seeds`."""
    tuned: dict[str, JsonValue]
    """Values by field of the configuration, as chosen for this method; empty without tuning."""
    accuracy: dict[str, Spread]
    """Test accuracy of `fused`, `assembled` and the unimodal head of each modality.

    `fused` is the paper's protocol: the fused head of the tested epoch. `assembled` is the
    assembled model, absent without `train.assemble`. Untrained heads are absent.
    """
    tested_epoch: TestedEpoch
    """The epochs whose models were tested."""
    num_steps: float
    """The number of training steps, averaged over seeds."""
    time_ratio: float
    """Training time relative to the reference."""
    budget_ratio: BudgetRatio
    """What training spent, relative to the reference."""
    zero_mask_accuracy: dict[str, Spread]
    """Test accuracy of the fused head when all modalities but one are masked with zeros.

    Empty without `train.diagnostics`.
    """
    cost: MethodCost
    """The cost."""


class PairTest(Schema):
    """Paired statistical tests between two methods."""

    method: str
    """The method."""
    against: str
    """The method that it is compared with: the reference, or `random`."""
    accuracy: Literal["fused", "assembled"]
    """The test accuracy that is compared."""
    difference: Spread
    """The difference of the accuracies, positive if `method` is better.

    Its interval is null for a single seed, and if the difference is the same for all seeds.
    """
    p: float | None
    """p of Student's paired t-test over seeds; null where the interval is."""
    p_holm: float | None
    """p after Holm's correction for all tests of the comparison."""
    mcnemar_p: list[float]
    """p of the exact McNemar test over test samples, one value per seed, not corrected."""


class Trial(Schema):
    """Values of fields of the configuration, and how they validate."""

    values: dict[str, JsonValue]
    """Values by field of the configuration."""
    each: list[float | None]
    """The validation metric of the tested epoch for each tuning seed; null if training diverged."""
    mean: float | None
    """The mean over tuning seeds; null if training diverged."""


class MethodTuning(Schema):
    """The trials of one method."""

    method: str
    """The name of the method."""
    chosen: dict[str, JsonValue]
    """The values of the best trial."""
    trials: list[Trial]
    """All trials."""


class TuningResult(Schema):
    """The choice of settings for each method by validation."""

    metric: Literal["loss", "accuracy", "macro_f1"]
    """The validation metric: the calibrated loss, of which the lowest is best, or another one."""
    seeds: list[int]
    """The tuning seeds, which the results do not use."""
    methods: list[MethodTuning]
    """The trials of each method."""


class Majority(Schema):
    """The prediction that is always the most frequent class of the train split."""

    name: str
    """The class."""
    accuracy: float
    """Its accuracy on the test split."""


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


class ComparisonTable(Schema):
    """The numbers of a comparison of methods, each trained with the same seeds."""

    seeds: list[int]
    """The seeds that every method was trained with."""
    reference: str
    """The method that others are compared with: `joint_heads`, else `random`, else the first."""
    num_test: int
    """The number of test samples."""
    budget: Literal["epochs", "flops", "seconds"]
    """What every run could spend: its epochs, or as much as the reference with the same seed."""
    chance: float
    """The accuracy of a random class: 1 / number of classes."""
    majority: Majority
    """The most frequent class of the train split as the prediction of every sample."""
    methods: list[MethodResult]
    """The results of each method."""
    tests: list[PairTest]
    """Tests of each method against the reference and against `random`."""
    tuning: TuningResult | None
    """How settings were chosen for each method; null without tuning."""
    headline: str
    """How the best other method compares with the reference by the fused head, in one sentence with
    difference, interval and p."""
    verdict: str
    """The result in words, which follows from the numbers."""
    notes: list[str]
    """Footnotes of the results: runs tested in the warm-up, unequal budgets, a single seed."""


class ComparisonDetail(ComparisonTable):
    """A comparison of methods."""

    name: str
    """The name of the comparison."""
