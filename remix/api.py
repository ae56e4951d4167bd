"""Functions of the public API; they accept paths, mappings and plain values."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.config import load, parse
from pipeline.plans.config import PlanConfig
from pipeline.scores.table import Scores
from pipeline.storage.store_path import StorePath

if TYPE_CHECKING:
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.summary import DecodeSummary, Progress
    from pipeline.plans.plan import BatchPlan
    from trainer.assembly.assembled import AssembledModel
    from trainer.config import RunConfig
    from trainer.run_directory import Run

PathLike = str | os.PathLike[str]


def decode(
    shards: Sequence[PathLike],
    out: PathLike,
    config: "DecodeConfig | Mapping[str, Any] | PathLike | None" = None,
    *,
    verify: bool = False,
    address: str | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> "DecodeSummary":
    """Decode shards into the feature set `out`, on Ray Data.

    Args:
        shards: tar files, folders of them, or globs.
        out: STORE/features/NAME.
        config: modalities and limits, as a mapping or a YAML file; by default decode.yaml next to
            the shards, else inferred from samples of many shards.
        verify: hash shards that were decoded before, rather than trust their sizes and versions.
        address: address of a Ray cluster; by default this machine.
        progress: called after each shard.
    Returns:
        Numbers of rows and of rejected samples, and the fingerprint.
    Raises:
        InputError: a shard, the configuration or a sample is invalid. What the first samples do
            not show is raised at the end; decoded parts are kept.
        BudgetError: too many samples were rejected.

    Example:
        summary = remix.decode(["shards/"], "store/features/clips")
        print(summary.num_rows, summary.reasons)
    """
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.inference import Inferred, infer_config
    from pipeline.decode.job import decode as run
    from pipeline.shards.discover import discover_shards

    shard_list = discover_shards([os.fspath(shard) for shard in shards])
    if config is None:
        found = infer_config(shard_list)
    elif isinstance(config, str | os.PathLike):
        found = Inferred(config=load(DecodeConfig, Path(config)))
    elif isinstance(config, DecodeConfig):
        found = Inferred(config=config)
    else:
        found = Inferred(config=parse(DecodeConfig, config, "decode"))
    return run(
        shard_list,
        StorePath.at(out),
        found.config,
        inferred=found.lines,
        verify=verify,
        address=address,
        progress=progress,
    )


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
        scores: open scores, or the path of a scores file.
        batch_size: rows per global batch, over all ranks.
        seed, epoch: determine the order; the same values give the same plan on any machine.
        out: file to write the plan to; by default the plan is only returned.
        **config: fields of PlanConfig, such as order="interleaved".
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

    plan_config = parse(PlanConfig, config, "remix.plan")
    opened = scores if isinstance(scores, Scores) else Scores.open(scores)
    builder = remix_plan_builder(opened, plan_config, batch_size=batch_size, seed=seed, epoch=epoch)
    if out is None:
        return build(builder)
    write_plan(StorePath.at(out), builder)
    return BatchPlan.open(out, trusted=True)


def train(config: "RunConfig | Mapping[str, Any] | PathLike", *, resume: bool = False) -> "Run":
    """Train a run to its end, in this process or on Ray, as configured.

    Args:
        config: a run's configuration, as a mapping or a YAML file.
        resume: continue the run if it exists.
    Returns:
        The run's folder, with its plans, scores, checkpoints and tables.
    Raises:
        InputError: the configuration or the features are invalid; nothing was written.

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
    tune: Mapping[str, Sequence[Any]] | None = None,
    tune_seeds: int = 2,
    budget: Literal["epochs", "flops", "seconds"] = "epochs",
    jobs: int = 1,
) -> dict[str, Any]:
    """Train several methods over several seeds and compare them; existing runs are reused.

    Args:
        config: configuration shared by all runs, as a mapping or a YAML file.
        methods: METHOD or METHOD:POLICY; the ensemble of unimodal models is always added.
        seeds: number of seeds, from the configuration's own on.
        tune: values by field of the configuration, such as {"optimizer.lr": [1e-4, 1e-3]}; the
            best ones on validation are chosen for each method. Several fields are a grid.
        tune_seeds: number of seeds to choose with, those after the seeds of the comparison.
        budget: what every run may spend: its epochs, or as many FLOPs or seconds as the reference
            (joint_heads, if compared) with the same seed.
        jobs: number of runs trained at the same time, in processes of their own.
    Returns:
        Test accuracies (fused, assembled and unimodal) and costs per method, the accuracies of
        chance and of the majority class, paired tests, a verdict in words, and the path of the
        saved result.

    Example:
        result = remix.compare("run.yaml", ["joint_heads", "random", "remix"], seeds=3)
        print(result["verdict"])
    """
    from trainer.comparison.compare import compare as run
    from trainer.comparison.parallel import train_at_once
    from trainer.comparison.tuning import tuning_of

    base = _run_config(config)
    own_seeds = range(base.seed, base.seed + seeds)
    tuning = tuning_of(tune or {}, own_seeds, tune_seeds)
    return run(
        base,
        methods,
        own_seeds,
        tuning=tuning,
        budget=budget,
        train_ahead=(lambda configs: train_at_once(configs, jobs)) if jobs > 1 else lambda _: None,
    )


def load_model(path: PathLike) -> "AssembledModel":
    """Load the assembled model of a finished run, checkpoints/model.pt; the run is not needed.

    Raises:
        MissingError: the file does not exist.
        DataError: the file is damaged, or another checkpoint.

    Example:
        model = remix.load_model("store/runs/first/checkpoints/model.pt")
        p = model.predict({"audio": spectrograms, "video": frames})  # (B, C)
        print([model.classes[k] for k in p.argmax(axis=1)])
    """
    from trainer.assembly.assembled import AssembledModel

    return AssembledModel(StorePath.at(path))


def serve(
    store: PathLike | None = None,
    host: str | None = None,
    port: int | None = None,
    root_path: str | None = None,
) -> None:
    """Serve a store over HTTP, with a web page, until the process is interrupted.

    Args:
        store: a folder or a URI; by default REMIX_STORE or ./store.
        host: by default REMIX_HOST or 127.0.0.1.
        port: by default REMIX_PORT or 8000.
        root_path: path under which a proxy offers the service; by default REMIX_ROOT_PATH.

    Example:
        remix.serve("store", port=8000)
    """
    from service.serve import serve as run
    from service.settings import settings_of

    path = None if store is None else os.fspath(store)
    run(settings_of(store=path, host=host, port=port, root_path=root_path))


def _run_config(config: "RunConfig | Mapping[str, Any] | PathLike") -> "RunConfig":
    from trainer.config import RunConfig, load_run

    if isinstance(config, RunConfig):
        return config
    if isinstance(config, str | os.PathLike):
        return load_run(Path(config))
    return parse(RunConfig, config, "remix.train")
