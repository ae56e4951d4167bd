"""Response models of plans, their statistics and the scores behind them."""

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from service.schemas import Count, Schema


class PlanSummary(Schema):
    """The plan of one epoch, in a list."""

    epoch: int
    """The epoch, counted from 0."""
    fingerprint: str
    """A hash of the content; also the plan's permanent address under `/v1/plans/`."""
    policy: str
    """The policy that assigned samples to modalities; `joint` in warm-up."""
    num_steps: int
    """The number of steps."""
    num_rows: int
    """The number of samples drawn."""
    shares: dict[str, float | None]
    """Fraction of the samples by the modality that they train; `all` for all modalities."""
    churn: float | None
    """Fraction of samples that changed modality since the previous epoch; null if undefined."""
    has_scores: bool
    """Whether the scores of this epoch are stored."""
    written: datetime
    """When the plan was written."""


class DamagedPlan(Schema):
    """A list item for a plan that cannot be read. The other plans are not affected."""

    epoch: int
    """The epoch, counted from 0."""
    status: Literal["damaged"] = "damaged"
    """Always `damaged`."""
    error: str
    """What is wrong, and with which file."""


class PlanDetail(PlanSummary):
    """The plan of one epoch, with the settings and artifacts that it was made from."""

    modalities: list[str]
    """The names of the modalities."""
    num_classes: int | None = None
    """The number of classes; null if unknown."""
    seed: int
    """The seed of the run."""
    batch_size: int
    """The configured global batch size, in samples."""
    order: str | None = None
    """The order of the steps: `sequential`, `interleaved` or `mixed`; null in warm-up."""
    locality: int | None = None
    """Samples are shuffled within windows of this many rows; null for a global shuffle."""
    stratify: bool | None = None
    """Whether each batch has the class distribution of its modality's samples."""
    asked_shares: JsonValue = None
    """The configured shares: `natural`, `equal`, or a share per modality."""
    parents: dict[str, str]
    """The fingerprints of what the plan was made from: features, configuration and scores."""
    bytes: int
    """The size of the plan's file."""


class Histogram(Schema):
    """A histogram over samples."""

    edges: list[float]
    """The edges of the bins, one more than there are bins."""
    counts: list[int]
    """The number of samples in each bin."""
    assigned: list[int] | None = None
    """The number of samples in each bin that are assigned to the modality; null without a plan."""
    mean: float | None = None
    """The mean over all samples; null if there are none."""


class ModalityHistograms(Schema):
    """Ability and difficulty of the samples in one modality."""

    num_missing: int
    """The number of samples that lack the modality."""
    kl: Histogram
    """Ability in bits: the KL divergence of the unimodal prediction from uniform."""
    difficulty: Histogram | None = None
    """Difficulty in [0, 1]: the normalised entropy of the unimodal prediction, 1 if it is uniform.

    Null if the number of classes is unknown.
    """


class ScoreHistograms(Schema):
    """Ability and difficulty of the training samples in one epoch."""

    epoch: int
    """The epoch, counted from 0."""
    num_rows: int
    """The number of scored samples."""
    num_classes: int | None = None
    """The number of classes; null if unknown."""
    modalities: dict[str, ModalityHistograms]
    """The histograms of each modality."""


class ModalityStats(Schema):
    """A plan's numbers for one modality."""

    num_steps: Count
    """The number of steps that train the modality."""
    num_rows: Count
    """The number of samples that train the modality."""
    share: float | None
    """Fraction of the plan's samples that train the modality; null for an empty plan."""
    read_amplification: float | None
    """Batches read per batch needed: rows in the record batches touched, over rows used.

    1 is best; null if the modality has no samples.
    """
    class_counts: list[int] | None = None
    """The number of samples of each class; null if the labels are unknown."""


class BatchSizes(Schema):
    """The number of samples per step."""

    min: int | None
    """The smallest batch; null for an empty plan."""
    max: int | None
    """The largest batch; null for an empty plan."""
    mean: float | None
    """The mean batch size; null for an empty plan."""
    counts: dict[str, int]
    """The number of steps by batch size."""


class StepOrder(Schema):
    """Which modalities the steps train, along the plan."""

    edges: list[int]
    """The first step of each bin, and the number of steps as the last edge."""
    num_steps: dict[str, list[int]]
    """The number of steps in each bin, by modality."""


class PlanStats(Schema):
    """The statistics of a plan."""

    num_steps: int
    """The number of steps."""
    num_rows: int
    """The number of samples drawn."""
    modalities: dict[str, ModalityStats]
    """The numbers of each modality; `all` for steps that train every modality."""
    batch_sizes: BatchSizes
    """Statistics of the number of samples per step."""
    transitions: dict[str, dict[str, int]]
    """How often a step of one modality (outer key) is followed by one of another (inner key)."""
    num_switches: int
    """Modality changes between steps: consecutive steps that train different modalities."""
    batch_rows: int
    """The number of rows in a record batch of the features, on which read amplification depends."""
    read_amplification: float | None
    """Batches read per batch needed, over all modalities: 1 is best; null for an empty plan."""
    order: StepOrder
    """The order of the steps, in at most 512 bins."""
    churn: float | None
    """Fraction of samples that changed modality since the previous epoch; null if undefined."""
    histograms: dict[str, ModalityHistograms] | None = None
    """Ability and difficulty by modality; null if the epoch was not scored, as in warm-up."""


class PlanStep(Schema):
    """A global step: all ranks together train on its batch."""

    step: int
    """The step, counted from 0."""
    modality: str
    """The modality that the step trains; `all` in warm-up and in mixed batches."""
    rows: list[int]
    """The rows of the batch, as row numbers of the feature set."""
    assigned: list[int] | None = Field(default=None, exclude_if=lambda value: value is None)
    """For each row of a mixed batch, the index of the modality that it trains; -1 for all.

    Absent if the plan has no mixed batches.
    """
