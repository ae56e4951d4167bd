"""Response models of views of single samples: points of a scatter, ranked lists, moved samples."""

from pydantic import Field

from service.schemas import Schema

ASSIGNED = "The modality that it trains; `all` for every one, null if the plan lacks the sample."


class AssignmentCount(Schema):
    """The scored samples of one assignment."""

    assigned: str | None
    """The modality that they train; `all` for every one, null if no plan has the samples."""
    num_rows: int
    """The number of scored samples."""
    num_points: int
    """How many of them are among the points."""


class ScorePoints(Schema):
    """Scores of some samples in one epoch, one list per column: entry i of each is the same sample.

    The samples are chosen by a hash of their row: the same ones in every epoch.
    """

    epoch: int
    """The epoch, counted from 0."""
    num_rows: int
    """The number of scored samples."""
    num_points: int
    """The number of chosen samples."""
    counts: list[AssignmentCount]
    """The number of samples by assignment."""
    row: list[int]
    """The row of each sample in the feature set, ascending."""
    sample_id: list[str]
    """The id of each sample."""
    label: list[int]
    """The class of each sample, as an index into the feature set's `classes`."""
    assigned: list[str | None]
    """The modality that each sample trains; `all` for every one, null if no plan has it."""
    difficulty: dict[str, list[float | None]]
    """By modality, the difficulty in [0, 1] to 4 decimals; null if the sample lacks it."""
    correct: dict[str, list[bool | None]]
    """By modality, whether the unimodal head is right; null if the sample lacks it."""


class RankedSample(Schema):
    """A sample in a ranked list."""

    row: int
    """The row of the sample in the feature set."""
    sample_id: str
    """The id of the sample."""
    label: int
    """The class, as an index into the feature set's `classes`."""
    class_name: str
    """The name of the class."""


class HardSample(RankedSample):
    """A sample with its difficulty."""

    value: float
    """The difficulty that decides the order."""
    difficulty: dict[str, float | None]
    """Difficulty in [0, 1] by modality; null if the sample lacks it."""


class ChangedSample(RankedSample):
    """A sample with the number of its changes."""

    num_changes: int
    """How often the sample trained another modality than in the plan before."""
    assigned: str
    """The modality that it trained last."""


class Mistake(RankedSample):
    """A test sample that the fused head gets wrong."""

    predicted: int
    """The predicted class, as an index into the feature set's `classes`."""
    predicted_name: str
    """The name of the predicted class."""
    p_predicted: float
    """The probability that the fused head gives the predicted class."""
    p_label: float
    """The probability that the fused head gives the label."""
    right: list[str]
    """The modalities whose unimodal head is right."""


class RankedPage(Schema):
    """A page of a ranked list. A list contains the first 1,000 of the samples that match."""

    num_rows: int
    """The number of samples that match, of which the first 1,000 are listed."""
    split: str
    """The split whose samples the list ranks."""
    reason: str | None = None
    """Why the list is empty whatever the store contains; null otherwise."""
    next: str | None = None
    """The URL of the next page; null on the last page."""


class HardSamples(RankedPage):
    """The hardest samples of an epoch."""

    epoch: int
    """The epoch of the scores."""
    items: list[HardSample]
    """The samples, the hardest first."""


class ChangedSamples(RankedPage):
    """The samples that changed modality most often."""

    num_plans: int
    """The number of plans of the run."""
    items: list[ChangedSample]
    """The samples, the one with the most changes first."""


class Mistakes(RankedPage):
    """The test samples that the fused head gets wrong."""

    items: list[Mistake]
    """The samples; the one whose wrong prediction has the highest probability first."""


class MoveCount(Schema):
    """The samples of one assignment in the first and one in the second plan."""

    before: str | None = Field(description=ASSIGNED.replace("it trains", "the first plan trains"))
    after: str | None = Field(description=ASSIGNED.replace("it trains", "the second plan trains"))
    num_rows: int
    """The number of samples."""


class MovedSample(RankedSample):
    """A sample whose assignment differs between two plans."""

    before: str | None = Field(description=ASSIGNED.replace("it trains", "the first plan trains"))
    after: str | None = Field(description=ASSIGNED.replace("it trains", "the second plan trains"))


class PlanMoves(Schema):
    """Two plans of a run side by side."""

    epoch: int
    """The epoch of the first plan."""
    to: int
    """The epoch of the second plan."""
    num_rows: int
    """The number of samples that either plan has."""
    num_moved: int
    """The number of samples whose assignment differs."""
    counts: list[MoveCount]
    """The number of samples by both assignments, without those of no sample."""
    items: list[MovedSample]
    """Some of the moved samples, chosen by a hash of their row."""
