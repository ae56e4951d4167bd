"""Configuration of a modality's encoder."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from pipeline.config import StrictModel
from pipeline.extensions import check_name, is_import_path

Shape = tuple[int, ...]
KINDS = ("resnet18", "cnn", "mlp", "text", "torchvision")


class EncoderConfig(StrictModel):
    """Augmentation, normalisation and encoder of a modality."""

    kind: Annotated[str, AfterValidator(lambda name: check_name(name, KINDS))] | None = None
    """resnet18, cnn, mlp, text, torchvision (args: {name: resnet34}), or the import path of an own
    encoder, "package.module:name"; null: cnn for images, spectrograms and frames, text for text,
    mlp for the rest."""
    args: dict[str, JsonValue] = Field(default={})
    """Keyword arguments of torchvision or of an own encoder."""
    width: int = Field(default=32, ge=1, le=1024)
    """Channels of the cnn's first block, or size of the text encoder's byte embedding.

    The feature of either has 8 * width numbers."""
    hidden: int = Field(default=256, ge=1, le=65_536)
    """Size of the mlp's layers and of its feature."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation layers of resnet18 and cnn. batch mixes rows of a batch: for the same result
    with any number of workers use group or none, or set train.sync_batchnorm."""
    frames: int | None = Field(default=None, ge=1)
    """Frames used per video, one per equal segment: random in training, central in evaluation.

    null: all stored frames."""
    crop: bool = False
    """Random resized crop in training. Applies to uint8 images and frames only."""
    crop_area: float = Field(default=0.08, gt=0, le=1)
    """Minimum share of the image's area that a crop keeps."""
    flip: bool = False
    """Random horizontal flip in training. Applies to uint8 images and frames only."""
    frequency_mask: float = Field(default=0, ge=0, le=1)
    """Largest share of the frequencies that a random band masks in training (SpecAugment, arXiv
    1904.08779); 0: none. Applies to spectrograms (channels, frequencies, windows) only."""
    time_mask: float = Field(default=0, ge=0, le=1)
    """As frequency_mask, of the windows."""
    time_shift: float = Field(default=0, ge=0, le=1)
    """Largest share of the duration by which a spectrogram is shifted in training, forward or back,
    with wrap-around; 0: none."""
    normalize: Literal["dataset", "imagenet", "none"] = "dataset"
    """dataset: mean and SD of the training rows; imagenet: ImageNet's mean and SD for uint8 images
    with three channels, dataset for other modalities; none: only scale uint8 to [0, 1]."""

    @model_validator(mode="after")
    def _takes_args(self) -> "EncoderConfig":
        if self.args and self.kind != "torchvision" and not is_import_path(self.kind):
            raise ValueError("args are for torchvision or an import path; remove them")
        return self
