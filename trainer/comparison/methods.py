"""The methods of `remix compare`: the settings that each changes, its paper, and the tables."""

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
    """Changes of a method to a configuration."""

    joint: bool = False
    """Warm up to the end: every batch trains all modalities of its samples."""
    model: Changes = field(default_factory=dict)
    train: Changes = field(default_factory=dict)
    plan: Changes = field(default_factory=dict)


ALTERNATING: Changes = {"heads": "shared", "fusion": "entropy"}
"""The model of MLA."""
# from arXiv 2506.11550 unless another paper is named
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
"""Changes of METHOD:POLICY in addition to those of the method; policies can be chained."""
COMBINED = ("remix:validation:joint", "remix:cross_fitted:validation", "remix:validation:softmax")
"""Chains of policies in the table of policies."""

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
"""The methods in the rows of each of the paper's tables, and of a table of policies."""
DEFAULT = "joint_heads,random,remix"


def methods_of(methods: str | None, tables: str | None) -> list[str]:
    """The methods of two comma-separated options, without repeats; by default DEFAULT.

    Args:
        methods: Names of methods.
        tables: Names of tables, which stand for their rows.
    Raises:
        ConfigError: a table is unknown.
    """
    selected = methods.split(",") if methods else []
    for table in tables.split(",") if tables else []:
        if table not in TABLES:
            raise ConfigError(f"unknown table {table!r}", f"choose from {', '.join(TABLES)}")
        selected += [method for method in TABLES[table] if method not in selected]
    return selected or DEFAULT.split(",")


def with_method(config: RunConfig, method: str, seed: int) -> RunConfig:
    """The configuration of one run of a comparison.

    Args:
        config: Settings that all runs share.
        method: METHOD or METHOD:POLICY:..., from METHODS and POLICIES.
    Returns:
        The configuration, named <name>-<method>-seed<seed>, with hyphens for + and :.
    Raises:
        ConfigError: the method or policy is unknown, or does not fit the settings.
    """
    plain, *policies = method.split(":")
    if plain not in METHODS:
        raise ConfigError(f"unknown method {plain!r}", f"choose from {', '.join(METHODS)}")
    for policy in policies:
        if policy not in POLICIES:
            raise ConfigError(
                f"unknown policy {policy!r} in method {method!r}",
                f"choose from {', '.join(POLICIES)}",
            )
    changes = METHODS[plain]
    joint = {"warmup_epochs": config.train.epochs} if changes.joint else {}
    changed = {
        "name": f"{config.name}-{method.replace('+', '-').replace(':', '-')}-seed{seed}",
        "seed": seed,
        "model": changes.model,
        "train": {**joint, **changes.train},
        "plan": changes.plan,
    }
    plain_config = parse(
        RunConfig, merge(config.model_dump(mode="json"), changed), f"method {method}"
    )
    if not policies:
        return plain_config
    if (
        plain_config.train.warmup_epochs >= plain_config.train.epochs
        or plain_config.plan.policy == "random"
        or plain_config.plan.joint_share == 1
    ):
        raise ConfigError(
            f"method {method!r}: {plain!r} has no assignment that a policy could change",
            f"use a method that remixes, such as remix:{policies[0]}",
        )
    changed = reduce(
        merge, (POLICIES[policy] for policy in policies), plain_config.model_dump(mode="json")
    )
    return parse(RunConfig, changed, f"method {method}")


def trains_heads(config: RunConfig) -> bool:
    """Whether unimodal heads are trained, by their own loss or through a fusion of logits."""
    train = config.train
    in_warmup = train.warmup_epochs > 0 and train.warmup_weight > 0
    remixing = train.warmup_epochs < train.epochs and train.remix_weight > 0
    return in_warmup or remixing or config.model.fusion in ("decision", "entropy")
