"""The methods that `remix compare` knows: what each changes in a run, who published it, and the tables that it stands in."""

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
    """What a method changes in a configuration."""

    joint: bool = False
    """Whether its plans are joint to the end: all modalities of every sample."""
    model: Changes = field(default_factory=dict)
    train: Changes = field(default_factory=dict)
    plan: Changes = field(default_factory=dict)


ALTERNATING: Changes = {"heads": "shared", "fusion": "entropy"}
"""The model of MLA."""
# by arXiv 2506.11550 where nothing else is said: its method, its baseline, its ablation and its fusions
METHODS: Mapping[str, Method] = {
    "joint": Method(joint=True, train={"warmup_weight": 0.0}),  # the fused loss alone
    "joint_heads": Method(joint=True),
    "unimodal": Method(  # each modality by itself
        joint=True,
        model={"fusion": "decision"},
        train={"strategy": "unimodal", "warmup_weight": 1.0},
    ),
    "decouple": Method(plan={"order": "mixed"}),
    "reassemble": Method(train={"strategy": "reassemble"}),
    "random": Method(plan={"policy": "random"}),  # control
    "remix": Method(),
    # arXiv 2203.15332
    "ogm_ge": Method(joint=True, train={"strategy": "ogm_ge", "warmup_weight": 0.0}),
    # arXiv 2309.06255
    "resample": Method(plan={"copies": "resample", "joint_share": 1.0, "order": "mixed"}),
    "resample+remix": Method(plan={"copies": "resample"}),
    # arXiv 2311.10707
    "mla": Method(joint=True, model=ALTERNATING, train={"strategy": "mla"}),
    "mla+remix": Method(model=ALTERNATING, train={"strategy": "mla"}),
    "sum": Method(joint=True, model={"fusion": "sum"}),
    "sum+remix": Method(model={"fusion": "sum"}),
    "decision": Method(joint=True, model={"fusion": "decision"}),
    "decision+remix": Method(model={"fusion": "decision"}),
    "film": Method(joint=True, model={"fusion": "film"}),  # arXiv 1709.07871
    "gated": Method(joint=True, model={"fusion": "gated"}),  # arXiv 1802.02892
    "mmtm": Method(joint=True, model={"fusion": "mmtm"}),  # arXiv 1911.08670
    "mmtm+remix": Method(model={"fusion": "mmtm"}),
    "centralnet": Method(joint=True, model={"fusion": "centralnet"}),  # arXiv 1808.07275
    "centralnet+remix": Method(model={"fusion": "centralnet"}),
}


POLICIES: Mapping[str, Changes] = {
    "easy": {"plan": {"policy": "easy"}},
    "loss": {"plan": {"policy": "loss"}},
    "spread": {"plan": {"relative": "spread"}},
    "validation": {"plan": {"relative": "validation"}},
    "smooth": {"plan": {"smoothing": 0.8}},
    "softmax": {"plan": {"temperature": 0.5}},
    "equal": {"plan": {"shares": "equal"}},
    "min_share": {"plan": {"min_share": 0.3}},
    "validation_shares": {"plan": {"shares": "validation", "min_share": 0.1}},
    "random_validation_shares": {
        "plan": {"policy": "random", "shares": "validation", "min_share": 0.1}
    },
    "joint": {"plan": {"joint_share": 0.3}},
    "cross_fitted": {"train": {"scores": "cross_fitted"}},
    "interleaved": {"plan": {"order": "interleaved"}},
}
"""What METHOD:POLICY changes beside the method; several may follow one another."""
COMBINED = ("remix:validation:joint", "remix:cross_fitted:validation", "remix:validation:softmax")
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
    for policy in policies:
        if policy not in POLICIES:
            raise ConfigError(
                f"policy {policy!r} of method {method!r} is unknown",
                f"choose from {', '.join(POLICIES)}",
            )
    changes = METHODS[plain]
    joint = {"warmup_epochs": config.train.epochs} if changes.joint else {}
    asked = {
        "name": f"{config.name}-{method.replace('+', '-').replace(':', '-')}-seed{seed}",
        "seed": seed,
        "model": changes.model,
        "train": {**joint, **changes.train},
        "plan": changes.plan,
    }
    found = parse(RunConfig, merge(config.model_dump(mode="json"), asked), f"method {method}")
    if not policies:
        return found
    if (
        found.train.warmup_epochs >= found.train.epochs
        or found.plan.policy == "random"
        or found.plan.joint_share == 1
    ):
        raise ConfigError(
            f"method {method!r}: {plain!r} assigns nothing that a policy could change",
            f"give it to one that remixes, as in remix:{policies[0]}",
        )
    asked = reduce(merge, (POLICIES[policy] for policy in policies), found.model_dump(mode="json"))
    return parse(RunConfig, asked, f"method {method}")


def trains_heads(config: RunConfig) -> bool:
    """Whether a run trains its unimodal heads: by a loss of their own, or through a fusion of their logits."""
    train = config.train
    in_warmup = train.warmup_epochs > 0 and train.warmup_weight > 0
    remixing = train.warmup_epochs < train.epochs and train.remix_weight > 0
    return in_warmup or remixing or config.model.fusion in ("decision", "entropy")
