"""Response models of a row of a feature set."""

from service.schemas import Schema


class FeatureRow(Schema):
    """What one sample has in one modality."""

    features: str
    """The name of the feature set."""
    row: int
    """The row of the sample in the feature set."""
    modality: str
    """The name of the modality."""
    kind: str
    """How the modality was decoded, e.g. `audio`, `video`, `image`, `tensor`, `text`."""
    shape: list[int]
    """The shape of the features."""
    dtype: str
    """The NumPy data type of the features."""
    low: float | None
    """The lowest finite value; null if none is finite."""
    high: float | None
    """The highest finite value; null if none is finite."""
    text: str | None = None
    """The text of a text modality, as far as the features contain it; null with a tokenizer."""
    picture: str | None = None
    """What the picture shows, in words; null if there is no picture, as of text."""
    width: int | None = None
    """The width of the picture in pixels; null without one."""
    height: int | None = None
    """The height of the picture in pixels; null without one."""


class MediaMember(Schema):
    """One of a sample's members in its shard that can be played or shown."""

    suffix: str
    """The suffix of the member in the shard, in lower case."""
    content_type: str
    """The media type, by the last part of the suffix."""
    bytes: int
    """The size of the member."""
    url: str
    """The URL of the content, which supports range requests."""
