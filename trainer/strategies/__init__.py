"""Update rules of a training step, one per file; add a rule as a file and in STRATEGIES."""

from trainer.config import RunConfig
from trainer.methods import METHODS
from trainer.strategies.base import TrainStep
from trainer.strategies.mla import Mla
from trainer.strategies.ogm_ge import OgmGe
from trainer.strategies.reassemble import Reassemble
from trainer.strategies.unimodal import Unimodal

STRATEGIES: dict[str, type[TrainStep]] = {
    "remix": TrainStep,
    "reassemble": Reassemble,
    "unimodal": Unimodal,
    "ogm_ge": OgmGe,
    "mla": Mla,
}


def strategy_of(config: RunConfig) -> type[TrainStep]:
    """Class of a run's training step."""
    return STRATEGIES[METHODS[config.method].step]
