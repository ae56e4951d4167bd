"""How scores become a plan."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config import Name, StrictModel


class PlanConfig(StrictModel):
    """How scores become a plan."""

    policy: Literal["kl", "loss", "easy", "random"] = "kl"
    """kl: to the modality of lowest ability (the paper); loss: of lowest probability of the label; easy: of highest ability; random: the control."""
    relative: Literal["none", "spread", "validation"] = "none"
    """What an ability is measured against: nothing; the modality's own mean and SD; what its validation accuracy is worth in bits."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """The weight of the earlier epochs' scores in a moving average."""
    temperature: float = Field(default=0.0, ge=0, le=1e6)
    """Soft assignment: a modality is drawn with probability proportional to exp(-cost / temperature); 0: the lowest cost."""
    joint_share: float = Field(default=0.0, ge=0, le=1)
    """Of the rows, drawn anew each epoch, that keep all modalities, in batches of their own."""
    copies: Literal["none", "resample"] = "none"
    """resample: rows come again, as often as their Shapley values say, in the modality that contributes little (CVPR 2024)."""
    order: Literal["sequential", "interleaved", "mixed"] = "sequential"
    """mixed: batches are not of one modality, and their rows are masked one by one (the paper's ablation)."""
    shares: (
        Literal["natural", "equal", "validation"] | dict[Name, Annotated[float, Field(ge=0, le=1)]]
    ) = "natural"
    """natural: as the policy says (the paper); equal; validation: in proportion to validation accuracy above chance; or targets that sum to 1."""
    min_share: float = Field(default=0.0, ge=0, le=0.5)
    """A floor under every modality's natural share."""
    stratify: bool = False
    """Whether each batch has the class mix of its subset."""
    locality: int | None = Field(default=None, ge=1)
    """Shuffle within windows of this many rows of the feature table, windows in random order; by default over the whole epoch."""

    @model_validator(mode="after")
    def _has_abilities(self) -> "PlanConfig":
        if self.policy == "loss" and (self.relative == "validation" or self.smoothing):
            raise ValueError(
                "policy 'loss' knows no abilities, which relative 'validation' and smoothing need; choose policy kl or easy, or leave those"
            )
        return self
