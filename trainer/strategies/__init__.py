"""Update rules of a training step, one per file; add a rule as a file and in STRATEGIES."""

from pipeline.errors import ConfigError
from pipeline.extensions import load_extension
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
    """Class of a run's training step. Raises ConfigError if it cannot be used."""
    step: type[TrainStep]
    if path := config.train.strategy:
        own = load_extension(path)
        if not isinstance(own, type) or not issubclass(own, TrainStep):
            raise ConfigError(
                f"train.strategy {path} is not a subclass of TrainStep",
                "derive it from remix.TrainStep",
            )
        step = own
    else:
        step = STRATEGIES[METHODS[config.method].step]
    if config.train.accumulate > 1 and not step.accumulates:
        raise ConfigError(
            f"train.accumulate is {config.train.accumulate}, but {step.__name__} updates the "
            "weights after every batch",
            "set it to 1",
        )
    return step
