"""The functions of the public API: paths and plain values in, what Remix works with out."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import load, parse
from pipeline.plans.config import PlanConfig
from pipeline.scores.table import Scores
from pipeline.storage.store_path import StorePath

if TYPE_CHECKING:
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.summary import DecodeSummary, Progress
    from pipeline.plans.plan import BatchPlan
    from trainer.config import RunConfig
    from trainer.run_directory import Run

PathLike = str | os.PathLike[str]


def decode(
    shards: Sequence[PathLike],
    out: PathLike,
    config: "DecodeConfig | Mapping[str, Any] | PathLike | None" = None,
    *,
    address: str | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> "DecodeSummary":
    """Decode shards into the feature set `out`, on Ray Data.

    Args:
        shards: tar files, folders of them, or globs.
        out: STORE/features/NAME.
        config: modalities and limits, as a mapping or a YAML file; by default decode.yaml next to
            the shards, else what the first sample shows.
        address: a Ray cluster; by default this machine.
        progress: called after each shard.
    Returns:
        The numbers of rows and of rejected samples, and the fingerprint.
    Raises:
        InputError: a shard, the configuration or a sample is wrong; nothing was written.
        BudgetError: too many samples were rejected.

    Example:
        summary = remix.decode(["shards/"], "store/features/clips")
        print(summary.num_rows, summary.reasons)
    """
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.job import decode as run
    from pipeline.decode.preflight import infer_config
    from pipeline.shards.discover import discover_shards

    found = discover_shards([os.fspath(shard) for shard in shards])
    if config is None:
        asked = infer_config(found)
    elif isinstance(config, str | os.PathLike):
        asked = load(DecodeConfig, Path(config))
    else:
        asked = (
            config if isinstance(config, DecodeConfig) else parse(DecodeConfig, config, "decode")
        )
    return run(found, StorePath.at(out), asked, address=address, progress=progress)


def plan(
    scores: Scores | PathLike,
    *,
    batch_size: int = 64,
    seed: int = 0,
    epoch: int = 0,
    out: PathLike | None = None,
    **config: Any,
) -> "BatchPlan":
    """Make the plan of an epoch from scores.

    Args:
        scores: scores that are open, or a file of them.
        batch_size: rows of a global batch, over all ranks.
        seed, epoch: of the order; the same ones give the same plan on any machine.
        out: a file to write the plan to; by default it is only returned.
        **config: fields of the plan's configuration, such as order="interleaved".
    Raises:
        ConfigError: a field is unknown or out of range.
        DataError: the scores are damaged.

    Example:
        plan = remix.plan("scores/epoch-0010.arrow", batch_size=64, order="interleaved")
        for step in plan.steps():
            print(step.modality, step.rows)
    """
    from pipeline.plans.plan import BatchPlan
    from pipeline.plans.planner import build, remix_plan_builder, write_plan

    asked = parse(PlanConfig, config, "remix.plan")
    opened = scores if isinstance(scores, Scores) else Scores.open(scores)
    draft = remix_plan_builder(opened, asked, batch_size=batch_size, seed=seed, epoch=epoch)
    if out is None:
        return build(draft)
    write_plan(StorePath.at(out), draft)
    return BatchPlan.open(out, trusted=True)


def train(config: "RunConfig | Mapping[str, Any] | PathLike", *, resume: bool = False) -> "Run":
    """Train one run to its end, in this process or on Ray as its configuration says.

    Args:
        config: a run's configuration, as a mapping or a YAML file.
        resume: continue the run if it exists.
    Returns:
        The run's folder: its plans, scores, checkpoints and tables.
    Raises:
        InputError: something is wrong that could be seen before the run started.

    Example:
        run = remix.train({"name": "first", "features": "clips", "store": "store"})
        print(run.metadata["result"]["test_accuracy"])
    """
    from trainer.launch import launch

    return launch(_run_config(config), resume=resume)


def compare(
    config: "RunConfig | Mapping[str, Any] | PathLike",
    methods: Sequence[str] = ("joint_heads", "random", "remix"),
    *,
    seeds: int = 5,
) -> dict[str, Any]:
    """Train several methods over several seeds and compare them; runs that exist are reused.

    Args:
        config: the run that all of them share, as a mapping or a YAML file.
        methods: METHOD or METHOD:POLICY.
        seeds: how many, counted from the configuration's own.
    Returns:
        Per method the test accuracies and costs, the paired tests, and where they were saved.

    Example:
        result = remix.compare("run.yaml", ["joint_heads", "random", "remix"], seeds=3)
        print({row["method"]: row["accuracy"]["fused"]["mean"] for row in result["methods"]})
    """
    from trainer.comparison.compare import compare as run

    base = _run_config(config)
    return run(base, methods, range(base.seed, base.seed + seeds))


def serve(store: PathLike | None = None, host: str | None = None, port: int | None = None) -> None:
    """Show a store over HTTP and on a page, until the process is interrupted.

    Args:
        store: a folder or a URI; by default REMIX_STORE or ./store.
        host: by default REMIX_HOST or 127.0.0.1.
        port: by default REMIX_PORT or 8000.

    Example:
        remix.serve("store", port=8000)
    """
    from service.serve import serve as run
    from service.settings import settings_of

    run(settings_of(store=None if store is None else os.fspath(store), host=host, port=port))


def _run_config(config: "RunConfig | Mapping[str, Any] | PathLike") -> "RunConfig":
    from trainer.config import RunConfig, load_run

    if isinstance(config, RunConfig):
        return config
    if isinstance(config, str | os.PathLike):
        return load_run(Path(config))
    return parse(RunConfig, config, "remix.train")
