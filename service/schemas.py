"""What the service answers: one pydantic model an object, one page of them a list."""

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Item = TypeVar("Item")
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Schema(BaseModel):
    """Base of all answers: what the artifact says beyond the fields is left out, what it says wrongly is an error."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ProblemDetails(BaseModel):
    """RFC 9457 problem details: the one shape of every error."""

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str
    request_id: str


class Page(Schema, Generic[Item]):
    """A page of a list; `next` is the URL of the page that follows, null on the last."""

    items: list[Item]
    next: str | None = None


class Damage(Schema):
    """What stands in a list for an artifact that cannot be read; the rest of the list is served all the same."""

    name: str
    status: Literal["damaged"] = "damaged"
    error: str


class Parent(Schema):
    """A feature set by name, and the fingerprint that it had."""

    name: str
    fingerprint: str


class FeatureModality(Schema):
    """What one row of a modality is."""

    kind: str
    shape: list[int]
    dtype: str
    num_rows: int
    """Samples that have the modality."""


class FeatureSummary(Schema):
    """A feature set in a list."""

    name: str
    status: Literal["finished"] = "finished"
    fingerprint: str
    num_rows: int
    num_rejected: int
    num_classes: int
    splits: dict[str, int]
    modalities: dict[str, FeatureModality]


class FeatureDetail(FeatureSummary):
    """A feature set."""

    classes: list[str]
    reasons: dict[str, int]
    """Rejected samples by reason."""
    num_parts: int
    parents: dict[str, JsonValue]


class SampleSummary(Schema):
    """A sample in a list, by the row that plans and scores name."""

    row: int
    sample_id: str
    label: int
    split: str
    shard: str
    has: dict[str, bool]


class Rejected(Schema):
    """A sample that could not be used, and why."""

    shard: str
    sample_id: str
    stage: str
    reason: str
    error: str


class Best(Schema):
    """The best validation epoch so far."""

    epoch: int
    validation_accuracy: float


class RunSummary(Schema):
    """A run in a list."""

    name: str
    status: Literal["created", "running", "finished", "interrupted", "failed"]
    error: str | None = None
    updated: datetime
    """When the run last wrote its status or an epoch."""
    features: Parent
    modalities: list[str]
    num_epochs: int
    """Epochs that are done."""
    planned_epochs: int
    warmup_epochs: int
    best: Best | None = None
    test_accuracy: dict[str, float | None] | None = None
    """Of the fused head and of each modality's, at the best validation epoch, once the run is finished."""


class RunDetail(RunSummary):
    """A run."""

    config: dict[str, JsonValue]
    """As it was asked for, without the store's place."""
    digest: str
    """The hash of what decides the result."""
    code_version: str
    plans: list[int]
    """Epochs that have a plan."""
    scores: list[int]
    """Epochs that have scores."""


class EpochModality(Schema):
    """One modality in one epoch."""

    share: float | None
    """The share of the epoch's samples that trained this modality alone; null in warm-up."""
    train_accuracy: float | None
    validation_accuracy: float | None
    gradient_cosine: float | None = None
    """Between the gradients of the fused and of this modality's loss on its encoder; null without diagnostics, as the next."""
    zero_mask_accuracy: float | None = None
    """Of the fused head on the validation split when this modality shows alone."""


class EpochSeconds(Schema):
    """Where the time of an epoch went."""

    score: float | None
    plan: float | None
    load: float | None
    step: float | None
    validate_: float | None = Field(serialization_alias="validate", validation_alias="validate")
    epoch: float | None


class EpochRow(Schema):
    """One epoch that is done."""

    epoch: int
    policy: str
    num_steps: int
    num_rows: int
    learning_rate: float | None
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    """Of the fused head."""
    modalities: dict[str, EpochModality]
    churn: float | None
    """The share of samples whose modality differs from that of the epoch before."""
    rho: float | None
    """Imbalance: the better modality's confidence in the label over the other's."""
    head_gradient_cosine: float | None = None
    """Between the modalities' gradients on what they share, as the mean over pairs; null without diagnostics."""
    seconds: EpochSeconds
    samples_per_second: float | None


class PlanSummary(Schema):
    """A plan in a list."""

    epoch: int
    fingerprint: str
    policy: str
    num_steps: int
    num_rows: int
    shares: dict[str, float | None]
    """By modality, "all" in warm-up."""
    churn: float | None
    has_scores: bool
    """Whether scores of this very epoch are stored."""
    written: datetime


class DamagedPlan(Schema):
    """What stands in the list of plans for one that cannot be read."""

    epoch: int
    status: Literal["damaged"] = "damaged"
    error: str


class PlanDetail(PlanSummary):
    """A plan: what it was asked to be, what it was made from."""

    modalities: list[str]
    num_classes: int | None = None
    seed: int
    batch_size: int
    order: str | None = None
    locality: int | None = None
    stratify: bool | None = None
    min_share: float | None = None
    asked_shares: JsonValue = None
    """natural, equal, or a share per modality."""
    parents: dict[str, str]
    bytes: int


class Histogram(Schema):
    """Counts between edges; `assigned` counts those of the samples that train the modality."""

    edges: list[float]
    counts: list[int]
    assigned: list[int] | None = None
    mean: float | None = None


class ModalityHistograms(Schema):
    """Ability and difficulty of the samples on one modality."""

    num_missing: int
    kl: Histogram
    """Bits."""
    difficulty: Histogram | None = None


class ScoreHistograms(Schema):
    """How hard the samples are for each modality."""

    epoch: int
    num_rows: int
    num_classes: int | None = None
    modalities: dict[str, ModalityHistograms]


class ModalityStats(Schema):
    """What a plan does for one modality."""

    num_steps: Count
    num_rows: Count
    share: float | None
    read_amplification: float | None
    class_counts: list[int] | None = None


class BatchSizes(Schema):
    """How many rows the steps have; `counts` by size."""

    min: int | None
    max: int | None
    mean: float | None
    counts: dict[str, int]


class StepOrder(Schema):
    """The order of a plan: how many steps of each modality lie between two edges, which are step numbers."""

    edges: list[int]
    num_steps: dict[str, list[int]]


class PlanStats(Schema):
    """A plan's statistics, computed when it was committed."""

    num_steps: int
    num_rows: int
    modalities: dict[str, ModalityStats]
    batch_sizes: BatchSizes
    transitions: dict[str, dict[str, int]]
    num_switches: int
    batch_rows: int
    read_amplification: float | None
    order: StepOrder
    churn: float | None
    histograms: dict[str, ModalityHistograms] | None = None


class PlanStep(Schema):
    """A global step: all ranks train `modality` ("all" in warm-up) on `rows` together.

    Where a batch mixes modalities, `assigned` has for each row the number of the one that it trains, -1 for all; other steps do not have it.
    """

    step: int
    modality: str
    rows: list[int]
    assigned: list[int] | None = Field(default=None, exclude_if=lambda value: value is None)


class SampleModality(Schema):
    """What the scores of an epoch say of a sample's modality; nulls where the sample lacks it."""

    kl: float | None
    """Ability in bits."""
    difficulty: float | None
    p_label: float | None
    predicted: int | None


class SampleEpoch(Schema):
    """A sample in one epoch."""

    epoch: int
    step: int | None = None
    """The step it was in; null where the plan does not have it."""
    assigned: str | None = None
    """The modality of that step; "all" in warm-up."""
    modalities: dict[str, SampleModality] | None = None
    """Null where the epoch has no scores of the sample."""


class SampleHistory(Schema):
    """A sample's story: how hard it was for each modality, and what it trained, epoch by epoch."""

    sample_id: str
    row: int
    label: int
    class_name: str
    split: str
    shard: str
    has: dict[str, bool]
    epochs: list[SampleEpoch]


class Ready(Schema):
    """The process, or the store, is there."""

    status: Literal["ok"] = "ok"
