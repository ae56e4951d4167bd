"""Response models of the HTTP API. Docstrings of fields become their descriptions in OpenAPI."""

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Item = TypeVar("Item")
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Schema(BaseModel):
    """Base of the response models.

    Unknown fields of an artifact are ignored; wrong types and non-finite numbers are errors.
    """

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ProblemDetails(BaseModel):
    """The body of every error response (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = "about:blank"
    """`urn:remix:damaged` for a damaged artifact, otherwise `about:blank`."""
    title: str
    """A short name of the kind of error."""
    status: int = Field(ge=400, le=599)
    """The HTTP status code."""
    detail: str
    """What went wrong, and how to fix it."""
    instance: str
    """The path of the request."""
    request_id: str
    """Identifies the request in the service's log; also in the header `X-Request-ID`."""


class Page(Schema, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    """The items of this page, in order."""
    next: str | None = None
    """The URL of the next page; null on the last page."""


class Damage(Schema):
    """A list item whose artifact cannot be read. The other items of the list are not affected."""

    name: str
    """The name of the artifact's folder."""
    status: Literal["damaged"] = "damaged"
    """Always `damaged`."""
    error: str
    """What is wrong, and with which file."""


class Parent(Schema):
    """The feature set that an artifact was made from."""

    name: str
    """The name of the feature set."""
    fingerprint: str
    """The fingerprint of the feature set when the artifact was made."""


class FeatureModality(Schema):
    """The features of one modality."""

    kind: str
    """How the modality was decoded, e.g. `audio`, `video`, `image`, `tensor`."""
    shape: list[int]
    """The shape of one sample's features."""
    dtype: str
    """The NumPy data type of the features."""
    num_rows: int
    """The number of samples that have this modality."""


class FeatureSummary(Schema):
    """A feature set in a list."""

    name: str
    """The name of the feature set."""
    status: Literal["finished"] = "finished"
    """Always `finished`: unfinished feature sets are not listed."""
    fingerprint: str
    """A hash of the content."""
    num_rows: int
    """The number of samples."""
    num_rejected: int
    """The number of samples that could not be decoded."""
    num_classes: int
    """The number of classes."""
    splits: dict[str, int]
    """The number of samples by split."""
    modalities: dict[str, FeatureModality]
    """The modalities by name."""


class FeatureDetail(FeatureSummary):
    """A feature set."""

    classes: list[str]
    """The names of the classes; a label is an index into this list."""
    reasons: dict[str, int]
    """The number of rejected samples by reason."""
    ignored: dict[str, int] = {}
    """The number of members of unknown suffix, by the last part of the suffix."""
    unread: dict[str, int] = {}
    """The number of media that no modality reads, by suffix, and of streams of clips, by kind."""
    mislabelled: dict[str, dict[str, int]] = {}
    """The number of members decoded as another format than their suffix, by suffix and format."""
    num_parts: int
    """The number of parts that the features are stored in, one per shard."""
    parents: dict[str, JsonValue]
    """The fingerprints of what the feature set was made from, such as its shards."""


class SampleSummary(Schema):
    """A sample in a list."""

    row: int
    """The row of the sample in the feature set; plans and scores refer to samples by it."""
    sample_id: str
    """The id of the sample."""
    label: int
    """The class, as an index into the feature set's `classes`."""
    split: str
    """`train`, `validation` or `test`."""
    shard: str
    """The shard that the sample came from."""
    has: dict[str, bool]
    """Whether the sample has each modality."""


class Rejected(Schema):
    """A sample that could not be decoded."""

    shard: str
    """The shard that contains the sample."""
    sample_id: str
    """The id of the sample; empty if it could not be read."""
    stage: str
    """The stage that rejected the sample: `shard` (reading) or `decode`."""
    reason: str
    """The kind of problem, e.g. `truncated`."""
    error: str
    """The problem in words."""


class Best(Schema):
    """The best epoch so far by `train.select` of the configuration, the one to be tested."""

    epoch: int
    """The epoch, counted from 0."""
    metric: Literal["loss", "accuracy", "macro_f1"]
    """The metric that it is the best of, `train.select.metric` of the configuration."""
    value: float | None
    """The metric in that epoch: `calibrated_loss`, `validation_accuracy` or `macro_f1`."""
    validation_accuracy: float | None
    """Validation accuracy of the fused head in that epoch, in [0, 1]."""
    in_warmup: bool
    """Whether it is a warm-up epoch, in which all methods train alike.

    Possible only with `train.select.from: start`, or if all epochs are warm-up.
    """


class Assembled(Schema):
    """The model that was assembled after training, checkpoints/model.pt."""

    readout: Literal["fused", "late", "refit", "stack"]
    """How it makes the fused prediction: the readout of the lowest validation loss.

    `fused` and `stack` read the tested epoch's model, `late` and `refit` the encoders and heads of
    each modality's best epoch.
    """
    epochs: dict[str, int]
    """The epoch that each modality's encoder and head come from."""
    validation_loss: dict[str, float]
    """Cross-fitted validation loss by readout."""
    test_accuracy: dict[str, float | None]
    """Test accuracy in [0, 1], of `fused` and of each modality's unimodal head."""


class RunSummary(Schema):
    """A run in a list."""

    name: str
    """The name of the run."""
    status: Literal["created", "running", "finished", "interrupted", "failed"]
    """The state of the run."""
    method: str
    """How the run trains, `method` of its configuration."""
    seed: int
    """The seed of the run."""
    error: str | None = None
    """Why the run failed; null otherwise."""
    updated: datetime
    """When the run last wrote its status or an epoch, by the clock of its node."""
    comparisons: list[str] = []
    """The comparisons that used the run."""
    features: Parent
    """The feature set that the run trains on."""
    modalities: list[str]
    """The names of the modalities, in the order of the feature set."""
    num_epochs: int
    """The number of completed epochs."""
    planned_epochs: int
    """The number of epochs that the run is configured to train."""
    stopped_epoch: int | None = None
    """The last epoch, if `train.patience` ended the run; null otherwise."""
    warmup_epochs: int
    """The number of warm-up epochs at the beginning; they train all modalities on every sample."""
    best: Best | None = None
    """The best epoch so far; null before the first epoch is complete."""
    test_accuracy: dict[str, float | None] | None = None
    """Test accuracy in [0, 1] at the best epoch, of `fused` and of each modality's unimodal head.

    Null until the run is finished; null for a head that was not trained.
    """
    assembled: Assembled | None = None
    """The assembled model; null until the run is finished, and without `train.assemble`."""


class RunDetail(RunSummary):
    """A run."""

    config: dict[str, JsonValue]
    """The configuration, without the location of the store."""
    digest: str
    """A hash of everything in the configuration that affects the result."""
    code_version: str
    """The version of Remix that trained the run."""
    plans: list[int]
    """The epochs that have a plan."""
    scores: list[int]
    """The epochs that have scores."""
    metrics: dict[str, dict[str, float | None]] | None = None
    """Test metrics in [0, 1] at the best epoch, of `fused` and of each modality's unimodal head:
    `accuracy`, `macro_f1`, `balanced_accuracy`, and with `train.auroc` `auroc`.

    Null until the run is finished; without heads whose modality no test sample has.
    """
    confusion: dict[str, list[list[int]]] | None = None
    """The number of test samples by head, label and prediction; null with more than 64 classes."""


class EpochModality(Schema):
    """One modality in one epoch. Accuracies are in [0, 1]."""

    share: float | None
    """Fraction of the epoch's samples that train this modality alone; null in warm-up."""
    train_accuracy: float | None
    """Accuracy of the unimodal head on the samples that trained it; null if there were none."""
    validation_accuracy: float | None
    """Validation accuracy of the unimodal head; null if no sample has the modality."""
    calibrated_loss: float | None
    """Validation loss of the unimodal head, its logits divided by `temperature`."""
    temperature: float | None
    """The temperature of the lowest validation loss."""
    best_epoch: int | None
    """The epoch from which the encoder and head would be assembled if training ended here."""
    gradient_cosine: float | None = None
    """Cosine between the encoder's gradients of the fused and the unimodal loss; null without
    `train.diagnostics`."""
    zero_mask_accuracy: float | None = None
    """Validation accuracy of the fused head when all other modalities are masked with zeros; null
    without `train.diagnostics`."""


class EpochSeconds(Schema):
    """Wall time of an epoch in seconds, by stage; null for a stage that did not run."""

    score: float | None
    """Scoring the training samples."""
    plan: float | None
    """Making the plan."""
    load: float | None
    """Waiting for data, summed over the steps."""
    step: float | None
    """Forward, backward and optimizer, summed over the steps."""
    validate_: float | None = Field(serialization_alias="validate", validation_alias="validate")
    """Validation."""
    epoch: float | None
    """The complete epoch."""


class EpochRow(Schema):
    """One completed epoch. Accuracies are in [0, 1]."""

    epoch: int
    """The epoch, counted from 0."""
    policy: str
    """The policy that assigned samples to modalities; `joint` in warm-up."""
    num_steps: int
    """The number of steps."""
    num_rows: int
    """The number of samples drawn; a sample that was drawn twice counts twice."""
    learning_rate: float | None
    """The learning rate."""
    train_loss: float | None
    """Mean training loss, weighted by the samples of each step."""
    train_fused_loss: float | None
    """Mean cross-entropy of the fused head on the training batches."""
    train_accuracy: float | None
    """Accuracy of the fused head on the training batches, which mask modalities after warm-up."""
    validation_loss: float | None
    """Mean cross-entropy of the fused head on the validation split."""
    validation_accuracy: float | None
    """Validation accuracy of the fused head."""
    calibrated_loss: float | None
    """Validation loss of the fused head, its logits divided by `temperature`."""
    temperature: float | None
    """The temperature of the lowest validation loss."""
    macro_f1: float | None
    """F1 score of the fused head on the validation split, averaged over classes."""
    best_epoch: int | None
    """The epoch that would be tested if training ended here; null if none can be yet."""
    modalities: dict[str, EpochModality]
    """The numbers of each modality."""
    churn: float | None
    """Fraction of samples that changed modality since the previous epoch.

    Null if this or the previous epoch trained all modalities together.
    """
    rho: float | None
    """Confidence ratio, strongest to weakest modality, on the validation split.

    The confidence of a modality is the mean probability that its unimodal head gives the label.
    1 means balanced (OGM-GE, arXiv 2203.15332).
    """
    head_gradient_cosine: float | None = None
    """Cosine between the modalities' gradients on shared parameters, averaged over pairs.

    Null without `train.diagnostics`.
    """
    seconds: EpochSeconds
    """Wall time by stage."""
    samples_per_second: float | None
    """Training throughput over loading and steps, without scoring, planning and validation."""


class SampleModality(Schema):
    """The scores of a sample in one modality; all null if the sample lacks the modality."""

    kl: float | None
    """Ability in bits: the KL divergence of the unimodal prediction from uniform."""
    difficulty: float | None
    """Difficulty in [0, 1]: the normalised entropy of the prediction; null if undefined."""
    p_label: float | None
    """The probability that the unimodal head gives the label."""
    predicted: int | None
    """The class that the unimodal head predicts."""


class SampleEpoch(Schema):
    """A sample in one epoch."""

    epoch: int
    """The epoch, counted from 0."""
    step: int | None = None
    """The step whose batch contains the sample; null if the plan does not contain it."""
    assigned: str | None = None
    """The modality that the sample trains; `all` in warm-up, null if the plan lacks the sample."""
    modalities: dict[str, SampleModality] | None = None
    """The scores by modality; null if the epoch has no scores of the sample."""


class SampleHistory(Schema):
    """A sample's scores and assignment in every epoch of a run."""

    sample_id: str
    """The id of the sample."""
    row: int
    """The row of the sample in the feature set."""
    label: int
    """The class, as an index into the feature set's `classes`."""
    class_name: str
    """The name of the class."""
    split: str
    """`train`, `validation` or `test`."""
    shard: str
    """The shard that the sample came from."""
    has: dict[str, bool]
    """Whether the sample has each modality."""
    epochs: list[SampleEpoch]
    """The epochs that have a plan or scores."""


class Ready(Schema):
    """The process runs (`/healthz`) and can read the store (`/readyz`)."""

    status: Literal["ok"] = "ok"
    """Always `ok`."""
