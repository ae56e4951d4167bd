"""Configuration of a plan."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.config import Name, StrictModel
from pipeline.extensions import check_name

POLICIES = ("kl", "random")


class PlanConfig(StrictModel):
    """Which modality each row trains, and how rows are batched and ordered."""

    policy: Annotated[str, AfterValidator(lambda name: check_name(name, POLICIES))] = "kl"
    """Modality that a row trains: kl: its most difficult one, as in the paper; random: any, as a
    control; "package.module:name": the one of lowest cost by a function of your own."""
    relative: Literal["none", "validation"] = "none"
    """Normalisation before modalities are compared: none; validation: by the ability that the
    modality's validation accuracy implies."""
    joint_share: float = Field(default=0.0, ge=0, le=1)
    """Fraction of rows, drawn anew each epoch, that train all modalities, in separate batches."""
    copies: Literal["none", "resample"] = "none"
    """resample: repeat rows in the modalities that contribute little to their prediction, by
    Shapley value (arXiv 2309.06255)."""
    order: Literal["sequential", "interleaved", "mixed"] = "sequential"
    """sequential: all batches of one modality, then of the next; interleaved: modalities in
    proportion throughout the epoch; mixed: each batch mixes modalities, masked row by row, as in
    the paper's ablation."""
    shares: Literal["natural", "equal"] | dict[Name, Annotated[float, Field(ge=0, le=1)]] = (
        "natural"
    )
    """Share of rows that trains each modality: natural: as the policy assigns them, as in the
    paper; equal; or one number per modality, with a sum of 1."""
    stratify: bool = False
    """Give each batch the class mix of all rows that train its modality."""
    locality: int | None = Field(default=None, ge=1)
    """Shuffle within windows of this many rows of the feature table, visited in random order. Set
    it if features are read from a disk or network too slow for random access; null shuffles the
    complete epoch."""
