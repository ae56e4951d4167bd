"""The training methods: the settings that each changes, and its paper."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Changes = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method does, and the defaults of the configuration that it changes."""

    schedule: Literal["joint", "remix", "alternate", "handover", "auto"] = "remix"
    """What is trained after the warm-up, see trainer/schedule.py."""
    step: Literal["remix", "reassemble", "unimodal", "ogm_ge", "mla"] = "remix"
    """Update rule of a step, in trainer/strategies/."""
    model: Changes = field(default_factory=dict)
    train: Changes = field(default_factory=dict)
    plan: Changes = field(default_factory=dict)

    @property
    def changes(self) -> Changes:
        """The sections of the configuration that it changes."""
        sections = {"model": self.model, "train": self.train, "plan": self.plan}
        return {name: section for name, section in sections.items() if section}


SHARED_HEAD: Changes = {"heads": "shared", "fusion": "entropy"}
"""The model of MLA."""
# from arXiv 2506.11550 unless another paper is named
METHODS: Mapping[str, Method] = {
    "joint": Method(schedule="joint", train={"warmup_weight": 0.0}),  # the fused loss alone
    "joint_heads": Method(schedule="joint"),
    "unimodal": Method(  # each modality by itself
        schedule="joint",
        step="unimodal",
        model={"fusion": "decision"},
        train={"warmup_weight": 1.0},
    ),
    "decouple": Method(plan={"order": "mixed"}),
    "reassemble": Method(step="reassemble"),
    "random": Method(plan={"policy": "random"}),  # control
    "remix": Method(),
    "alternate": Method(schedule="alternate"),  # every row, in batches of each modality in turn
    "handover": Method(schedule="handover"),
    "auto": Method(schedule="auto"),  # joint_heads, unless a race is won by handover
    # arXiv 2203.15332
    "ogm_ge": Method(schedule="joint", step="ogm_ge", train={"warmup_weight": 0.0}),
    # arXiv 2309.06255
    "resample": Method(plan={"copies": "resample", "joint_share": 1.0, "order": "mixed"}),
    "resample+remix": Method(plan={"copies": "resample"}),
    # arXiv 2311.10707
    "mla": Method(schedule="joint", step="mla", model=SHARED_HEAD),
    "mla+remix": Method(step="mla", model=SHARED_HEAD),
    "sum": Method(schedule="joint", model={"fusion": "sum"}),
    "sum+remix": Method(model={"fusion": "sum"}),
    "decision": Method(schedule="joint", model={"fusion": "decision"}),
    "decision+remix": Method(model={"fusion": "decision"}),
    "film": Method(schedule="joint", model={"fusion": "film"}),  # arXiv 1709.07871
    "gated": Method(schedule="joint", model={"fusion": "gated"}),  # arXiv 1802.02892
    "mmtm": Method(schedule="joint", model={"fusion": "mmtm"}),  # arXiv 1911.08670
    "mmtm+remix": Method(model={"fusion": "mmtm"}),
    "centralnet": Method(schedule="joint", model={"fusion": "centralnet"}),  # arXiv 1808.07275
    "centralnet+remix": Method(model={"fusion": "centralnet"}),
}
