"""What a step does: one file a rule. Another rule is a new file, and a line here."""

from trainer.strategies.base import Stepper
from trainer.strategies.mla import Mla
from trainer.strategies.ogm_ge import OgmGe
from trainer.strategies.reassemble import Reassemble
from trainer.strategies.unimodal import Unimodal

STRATEGIES: dict[str, type[Stepper]] = {
    "remix": Stepper,
    "reassemble": Reassemble,
    "unimodal": Unimodal,
    "ogm_ge": OgmGe,
    "mla": Mla,
}
