"""The methods that `remix compare` knows: what each changes in a run, and the tables that it stands in.

The papers that they are from are named in the README.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from pipeline.config import parse
from pipeline.errors import ConfigError
from trainer.config import RunConfig, merge

Changes = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method changes in a configuration; `joint`: all modalities of every sample are trained to the end."""

    changes: Changes = field(default_factory=dict)
    joint: bool = False

    def of(self, config: RunConfig) -> Changes:
        """The changes to a configuration."""
        epochs = {"train": {"warmup_epochs": config.train.epochs}} if self.joint else {}
        return merge(epochs, self.changes)


def _fusion(name: str) -> Changes:
    return {"model": {"fusion": name}}


MLA: Changes = {
    "model": {"heads": "shared", "fusion": "entropy"},
    "train": {"strategy": "mla"},
}
UNIMODAL: Changes = {
    "model": {"fusion": "decision"},
    "train": {"strategy": "unimodal", "warmup_weight": 1.0},
}
OGM_GE: Changes = {"train": {"strategy": "ogm_ge", "warmup_weight": 0.0}}
RESAMPLE: Changes = {"plan": {"copies": "resample", "joint_share": 1.0, "order": "mixed"}}

METHODS: Mapping[str, Method] = {
    "joint": Method(joint=True, changes={"train": {"warmup_weight": 0.0}}),
    "joint_heads": Method(joint=True),
    "unimodal": Method(joint=True, changes=UNIMODAL),
    "decouple": Method(changes={"plan": {"order": "mixed"}}),
    "reassemble": Method(changes={"train": {"strategy": "reassemble"}}),
    "random": Method(changes={"plan": {"policy": "random"}}),
    "remix": Method(),
    "ogm_ge": Method(joint=True, changes=OGM_GE),
    "resample": Method(changes=RESAMPLE),
    "resample+remix": Method(changes={"plan": {"copies": "resample"}}),
    "mla": Method(joint=True, changes=MLA),
    "mla+remix": Method(changes=MLA),
    "sum": Method(joint=True, changes=_fusion("sum")),
    "sum+remix": Method(changes=_fusion("sum")),
    "decision": Method(joint=True, changes=_fusion("decision")),
    "decision+remix": Method(changes=_fusion("decision")),
    "film": Method(joint=True, changes=_fusion("film")),
    "gated": Method(joint=True, changes=_fusion("gated")),
    "mmtm": Method(joint=True, changes=_fusion("mmtm")),
    "mmtm+remix": Method(changes=_fusion("mmtm")),
    "centralnet": Method(joint=True, changes=_fusion("centralnet")),
    "centralnet+remix": Method(changes=_fusion("centralnet")),
}


POLICIES: Mapping[str, Changes] = {
    "easy": {"plan": {"policy": "easy"}},
    "loss": {"plan": {"policy": "loss"}},
    "spread": {"plan": {"relative": "spread"}},
    "validation": {"plan": {"relative": "validation"}},
    "smooth": {"plan": {"smoothing": 0.8}},
    "soft": {"plan": {"temperature": 0.5}},
    "equal": {"plan": {"shares": "equal"}},
    "floor": {"plan": {"min_share": 0.3}},
    "budget": {"plan": {"shares": "validation", "min_share": 0.1}},
    "lottery": {"plan": {"policy": "random", "shares": "validation", "min_share": 0.1}},
    "joint": {"plan": {"joint_share": 0.3}},
    "cross": {"train": {"scores": "cross_fitted"}},
    "interleaved": {"plan": {"order": "interleaved"}},
}
"""What METHOD:POLICY changes beside the method; several may follow one another."""
COMBINED = ("remix:validation:joint", "remix:cross:validation", "remix:validation:soft")
"""Policies together that the table of policies shows, too."""

TABLES: Mapping[str, tuple[str, ...]] = {
    "fusion": (
        "joint_heads",
        "remix",
        "sum",
        "sum+remix",
        "decision",
        "decision+remix",
        "film",
        "gated",
    ),
    "methods": ("joint_heads", "ogm_ge", "resample", "mla", "remix", "resample+remix", "mla+remix"),
    "mid-fusion": ("mmtm", "mmtm+remix", "centralnet", "centralnet+remix"),
    "ablation": ("joint_heads", "decouple", "reassemble", "remix", "random"),
    "unimodal": ("joint", "joint_heads", "unimodal", "random", "remix"),
    "policies": (
        "joint_heads",
        "random",
        "remix",
        *(f"remix:{policy}" for policy in POLICIES),
        *COMBINED,
    ),
}
"""The paper's tables, and one of the policies, by the methods that are their rows."""
DEFAULT = "joint_heads,random,remix"


def methods_of(methods: str | None, tables: str | None) -> list[str]:
    """Of `remix compare`: the named methods and those of the named tables, each once; by default DEFAULT (raises ConfigError)."""
    asked = methods.split(",") if methods else []
    for table in tables.split(",") if tables else []:
        if table not in TABLES:
            raise ConfigError(f"table {table!r} is unknown", f"choose from {', '.join(TABLES)}")
        asked += [method for method in TABLES[table] if method not in asked]
    return asked or DEFAULT.split(",")


def with_method(config: RunConfig, method: str, seed: int) -> RunConfig:
    """The same run under METHOD or METHOD:POLICY:... and a seed, named <name>-<method>-seed<seed>, + and : as hyphens (raises ConfigError)."""
    plain, *policies = method.split(":")
    if plain not in METHODS:
        raise ConfigError(f"method {plain!r} is unknown", f"choose from {', '.join(METHODS)}")
    changes = {
        "name": f"{config.name}-{method.replace('+', '-').replace(':', '-')}-seed{seed}",
        "seed": seed,
        **METHODS[plain].of(config),
    }
    found = parse(RunConfig, merge(config.model_dump(mode="json"), changes), f"method {method}")
    if plain == method:
        return found
    for policy in policies:
        if policy not in POLICIES:
            raise ConfigError(
                f"policy {policy!r} of method {method!r} is unknown",
                f"choose from {', '.join(POLICIES)}",
            )
    if (
        found.train.warmup_epochs >= found.train.epochs
        or found.plan.policy == "random"
        or found.plan.joint_share == 1
    ):
        raise ConfigError(
            f"method {method!r}: {plain!r} assigns nothing that a policy could change",
            f"give it to one that remixes, as in remix:{policies[0]}",
        )
    return parse(
        RunConfig,
        reduce(merge, (POLICIES[policy] for policy in policies), found.model_dump(mode="json")),
        f"method {method}",
    )


def trains_heads(config: RunConfig) -> bool:
    """Whether a run trains its unimodal heads: by a loss of their own, or through a fusion of their logits."""
    train, weights = config.train, []
    if train.warmup_epochs:
        weights.append(train.warmup_weight)
    if train.warmup_epochs < train.epochs:
        weights.append(train.remix_weight)
    return any(weights) or config.model.fusion in ("decision", "entropy")
