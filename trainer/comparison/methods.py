"""The methods that `remix compare` knows: what each changes in a run, who published it, and the tables that it stands in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pipeline.config import parse
from pipeline.errors import ConfigError
from trainer.config import RunConfig, merge

REMIX = "arXiv 2506.11550"
MMTM = "arXiv 1911.08670"
CENTRALNET = "arXiv 1808.07275"
RESAMPLE = "arXiv 2309.06255"
MLA = "arXiv 2311.10707"
Changes = dict[str, Any]
ALTERNATING: Changes = {
    "model": {"heads": "shared", "fusion": "entropy"},
    "train": {"strategy": "mla"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method changes in a configuration, and its source."""

    source: str
    changes: Callable[[RunConfig], Changes]


def joint(config: RunConfig, **changes: Any) -> Changes:
    """Joint plans to the end: all modalities of every sample, with or without what else is given."""
    return merge({"train": {"warmup_epochs": config.train.epochs}}, changes)


METHODS: Mapping[str, Method] = {
    "joint": Method(
        source="the fused loss alone",
        changes=lambda config: joint(config, train={"warmup_weight": 0.0}),
    ),
    "joint_heads": Method(source=f"{REMIX}, baseline", changes=joint),
    "unimodal": Method(
        source="each modality by itself",
        changes=lambda config: joint(
            config,
            model={"fusion": "decision"},
            train={"strategy": "unimodal", "warmup_weight": 1.0},
        ),
    ),
    "decouple": Method(
        source=f"{REMIX}, ablation", changes=lambda config: {"plan": {"order": "mixed"}}
    ),
    "reassemble": Method(
        source=f"{REMIX}, ablation", changes=lambda config: {"train": {"strategy": "reassemble"}}
    ),
    "random": Method(source="control", changes=lambda config: {"plan": {"policy": "random"}}),
    "remix": Method(source=REMIX, changes=lambda config: {}),
    "ogm_ge": Method(
        source="arXiv 2203.15332",
        changes=lambda config: joint(config, train={"strategy": "ogm_ge", "warmup_weight": 0.0}),
    ),
    "resample": Method(
        source=RESAMPLE,
        changes=lambda config: {
            "plan": {"copies": "resample", "joint_share": 1.0, "order": "mixed"}
        },
    ),
    "resample+remix": Method(
        source=f"{RESAMPLE} on {REMIX}", changes=lambda config: {"plan": {"copies": "resample"}}
    ),
    "mla": Method(source=MLA, changes=lambda config: joint(config, **ALTERNATING)),
    "mla+remix": Method(source=f"{MLA} on {REMIX}", changes=lambda config: ALTERNATING),
    "sum": Method(
        source=f"{REMIX}, fusion", changes=lambda config: joint(config, model={"fusion": "sum"})
    ),
    "sum+remix": Method(
        source=f"{REMIX}, fusion", changes=lambda config: {"model": {"fusion": "sum"}}
    ),
    "decision": Method(
        source=f"{REMIX}, fusion",
        changes=lambda config: joint(config, model={"fusion": "decision"}),
    ),
    "decision+remix": Method(
        source=f"{REMIX}, fusion", changes=lambda config: {"model": {"fusion": "decision"}}
    ),
    "film": Method(
        source="arXiv 1709.07871", changes=lambda config: joint(config, model={"fusion": "film"})
    ),
    "gated": Method(
        source="arXiv 1802.02892", changes=lambda config: joint(config, model={"fusion": "gated"})
    ),
    "mmtm": Method(source=MMTM, changes=lambda config: joint(config, model={"fusion": "mmtm"})),
    "mmtm+remix": Method(
        source=f"{MMTM}; {REMIX}", changes=lambda config: {"model": {"fusion": "mmtm"}}
    ),
    "centralnet": Method(
        source=CENTRALNET, changes=lambda config: joint(config, model={"fusion": "centralnet"})
    ),
    "centralnet+remix": Method(
        source=f"{CENTRALNET}; {REMIX}", changes=lambda config: {"model": {"fusion": "centralnet"}}
    ),
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
        **METHODS[plain].changes(config),
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
