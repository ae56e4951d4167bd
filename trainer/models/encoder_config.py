"""Configuration of a modality's encoder."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from pipeline.config import StrictModel
from pipeline.extensions import check_name, is_import_path

Shape = tuple[int, ...]
SOURCES = {
    "torchvision": "torchvision.models:get_model",
    "timm": "timm:create_model",
    "transformers": "transformers:AutoModel",
}
"""Import paths of the libraries of models, whose versions a run records."""
KINDS = ("resnet18", "cnn", "mlp", "text", *SOURCES)


class EncoderConfig(StrictModel):
    """Augmentation, normalisation and encoder of a modality."""

    kind: Annotated[str, AfterValidator(lambda name: check_name(name, KINDS))] | None = None
    """resnet18, cnn, mlp, text, a library of models (torchvision, timm, transformers), or the
    import path of an own encoder, "package.module:name"; null: cnn for images, spectrograms and
    frames, text for text, mlp for the rest."""
    name: str | None = None
    """Model of torchvision or timm, such as resnet34, or model type of transformers, such as vit,
    which `pretrained` names too."""
    pretrained: bool | str = False
    """Weights to begin with, for a library of models: a local file (.pt, .pth, .safetensors), or
    for transformers a folder of save_pretrained; an id of the Hugging Face hub (timm,
    transformers); true: the library's default (torchvision, timm). false: random weights."""
    freeze: bool = False
    """Keep the encoder's weights as they are, in evaluation mode."""
    lr_scale: float = Field(default=1, gt=0)
    """Factor of the learning rate for the encoder's weights."""
    args: dict[str, JsonValue] = Field(default={})
    """Keyword arguments of an own encoder, of a model of torchvision or timm, or of the
    configuration of transformers."""
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
    def _fits_the_kind(self) -> "EncoderConfig":
        library = self.kind in SOURCES
        if self.args and not library and not is_import_path(self.kind):
            raise ValueError("args are for a library of models or an import path; remove them")
        if (self.name or self.pretrained) and not library:
            raise ValueError(f"name and pretrained are for kind {', '.join(SOURCES)}; remove them")
        if self.kind == "transformers" and self.pretrained is True:
            raise ValueError("transformers has no default weights: name a folder or an id")
        if library and not self.name and not (self.kind == "transformers" and self.pretrained):
            raise ValueError(f"kind {self.kind} needs the name of a model")
        return self
