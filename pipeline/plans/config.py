"""Configuration of a plan."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config import Name, StrictModel


class PlanConfig(StrictModel):
    """Which modality each row trains, and how rows are batched and ordered."""

    policy: Literal["kl", "loss", "easy", "random"] = "kl"
    """Modality that a row trains: kl: its most difficult one, as in the paper; loss: the one of
    lowest probability of the label; easy: its least difficult one; random: any, as a control."""
    relative: Literal["none", "spread", "validation"] = "none"
    """Normalisation before modalities are compared: none; spread: by the modality's mean and
    standard deviation; validation: by the ability that its validation accuracy implies."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Weight of earlier epochs in a moving average of the scores; 0 uses only the latest. Raise it
    if the assignment changes too much from epoch to epoch."""
    temperature: float = Field(default=0.0, ge=0, le=1e6)
    """Randomness of the assignment: a modality is drawn with probability proportional to
    exp(-cost / temperature). 0 always takes the lowest cost."""
    joint_share: float = Field(default=0.0, ge=0, le=1)
    """Fraction of rows, drawn anew each epoch, that train all modalities, in separate batches."""
    copies: Literal["none", "resample"] = "none"
    """resample: repeat rows in the modalities that contribute little to their prediction, by
    Shapley value (arXiv 2309.06255)."""
    order: Literal["sequential", "interleaved", "mixed"] = "sequential"
    """sequential: all batches of one modality, then of the next; interleaved: modalities in
    proportion throughout the epoch; mixed: each batch mixes modalities, masked row by row, as in
    the paper's ablation."""
    shares: (
        Literal["natural", "equal", "validation"] | dict[Name, Annotated[float, Field(ge=0, le=1)]]
    ) = "natural"
    """Share of rows that trains each modality: natural: as the policy assigns them, as in the
    paper; equal; validation: in proportion to validation accuracy above chance; or one number per
    modality, with a sum of 1."""
    min_share: float = Field(default=0.0, ge=0, le=0.5)
    """Minimum share of rows per modality, with shares natural or validation."""
    class_quotas: bool = False
    """Give every class the same share of each modality, by moving the samples of least margin."""
    stratify: bool = False
    """Give each batch the class mix of all rows that train its modality."""
    locality: int | None = Field(default=None, ge=1)
    """Shuffle within windows of this many rows of the feature table, visited in random order. Set
    it if features are read from a disk or network too slow for random access; null shuffles the
    complete epoch."""

    @model_validator(mode="after")
    def _has_abilities(self) -> "PlanConfig":
        if self.policy == "loss" and (self.relative == "validation" or self.smoothing):
            raise ValueError(
                "policy 'loss' reads no abilities, which relative 'validation' and smoothing need; "
                "choose policy kl or easy, or leave both unset"
            )
        return self
