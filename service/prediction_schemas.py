"""Response models of the test predictions of a run. Accuracies and confidences are in [0, 1]."""

from service.schemas import Schema


class ReliabilityBin(Schema):
    """The test samples whose confidence is in [`low`, `high`), the last bin with its end."""

    low: float
    """The lower end of the bin."""
    high: float
    """The upper end of the bin."""
    num_rows: int
    """The number of samples."""
    confidence: float | None
    """Their mean confidence, the probability of the predicted class; null without samples."""
    accuracy: float | None
    """The fraction of them that is predicted correctly; null without samples."""


class HeadReliability(Schema):
    """How the confidence of a head agrees with its accuracy."""

    num_rows: int
    """The number of test samples that have the head's modality."""
    accuracy: float | None
    """The fraction of them that is predicted correctly; null without samples."""
    confidence: float | None
    """Their mean confidence; null without samples."""
    calibration_error: float | None
    """The expected calibration error: the mean over samples of their bin's absolute difference
    between confidence and accuracy; null without samples."""
    bins: list[ReliabilityBin]
    """The samples by confidence, in bins of equal width."""


class Reliability(Schema):
    """Confidence and accuracy of each head on the test split."""

    num_rows: int
    """The number of test samples."""
    num_classes: int
    """The number of classes that are listed: the highest label of a test sample + 1."""
    heads: dict[str, HeadReliability]
    """By head: `fused` and the modalities, of the tested epoch's model; `assembled` and
    `assembled_<modality>`, of the assembled one."""


class ClassCounts(Schema):
    """The test samples of one class for one head."""

    num_rows: int
    """The number of samples of the class that have the head's modality."""
    num_correct: int
    """The number of them that is predicted correctly."""
    accuracy: float | None
    """`num_correct` / `num_rows`; null without samples."""


class ClassResult(Schema):
    """The test samples of one class."""

    label: int
    """The class, as an index into the feature set's `classes`."""
    heads: dict[str, ClassCounts]
    """The counts by head, as in the run's reliability."""
