"""The runs of a comparison: methods with policies, and the tables of methods."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from pipeline.config import parse
from pipeline.errors import ConfigError
from trainer.config import RunConfig
from trainer.config_values import merge
from trainer.methods import METHODS, Changes

POLICIES: Mapping[str, Changes] = {
    "validation": {"plan": {"relative": "validation"}},
    "equal": {"plan": {"shares": "equal"}},
    "joint": {"plan": {"joint_share": 0.3}},
    "interleaved": {"plan": {"order": "interleaved"}},
}
"""Changes of METHOD:POLICY in addition to those of the method; policies can be chained."""

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
    "policies": ("joint_heads", "random", "remix", *(f"remix:{policy}" for policy in POLICIES)),
}
"""The methods in the rows of each of the paper's tables, and of a table of policies."""
DEFAULT = "joint_heads,random,remix"
REFERENCE = "joint_heads"
"""The baseline of costs and tests, if it is compared."""
CONTROL = "random"
"""The method that every other one is tested against, in addition to the reference."""
ENSEMBLE = "unimodal"
"""The ensemble of unimodal models, which every comparison contains."""


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


def completed(methods: Sequence[str]) -> list[str]:
    """The methods of a comparison, with ENSEMBLE. Raises ConfigError."""
    if len(set(methods)) != len(methods) or not methods:
        raise ConfigError(
            f"methods are {', '.join(methods) or 'none'}", "name each method once, at least one"
        )
    return list(dict.fromkeys([*methods, ENSEMBLE]))


def reference_of(methods: Sequence[str]) -> str:
    """The method that the others are compared with."""
    return next((name for name in (REFERENCE, CONTROL) if name in methods), methods[0])


def slug(method: str) -> str:
    """A method as a part of a run's name, with hyphens for + and :."""
    return method.replace("+", "-").replace(":", "-")


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
    shared = _without(config.model_dump(mode="json"), METHODS[config.method].changes)
    changed = {
        "name": f"{config.name}-{slug(method)}-seed{seed}",
        "seed": seed,
        "method": plain,
        **METHODS[plain].changes,
    }
    plain_config = parse(RunConfig, merge(shared, changed), f"method {method}")
    if not policies:
        return plain_config
    if (
        plain_config.joint_epochs == plain_config.train.epochs
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


def _without(settings: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """Settings without the values that a method changed; defaults take their place."""
    kept = {}
    for key, value in settings.items():
        if isinstance(value, dict) and isinstance(changes.get(key), dict):
            kept[key] = _without(value, changes[key])
        elif key not in changes or changes[key] != value:
            kept[key] = value
    return kept


def trains_heads(config: RunConfig) -> bool:
    """Whether unimodal heads are trained, by their own loss or through a fusion of logits."""
    in_joint = config.joint_epochs > 0 and config.train.warmup_weight > 0
    remixing = config.joint_epochs < config.train.epochs and config.train.remix_weight > 0
    return in_joint or remixing or config.model.fusion in ("decision", "entropy")
