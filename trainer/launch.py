"""From a configuration to a finished run: checked first, then in this process or on Ray Train."""

from contextlib import suppress
from dataclasses import asdict

import torch

from pipeline.config import parse
from pipeline.errors import ConfigError, InputError, MismatchError, StoreError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.target_shares import target_of
from pipeline.storage.schemas import SPLITS
from trainer import loop
from trainer.config import RunConfig, check_world
from trainer.data.part_prefetcher import check_cache, open_features
from trainer.epoch_plan import check_policy
from trainer.models.model import model_for
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.shapley import check_valuation
from trainer.strategies import strategy_of


def launch(
    config: RunConfig, *, resume: bool = False, progress: loop.Progress = lambda event: None
) -> Run:
    """Starts a run, or with `resume` continues one of that name, and brings it to its end.

    Raises InputError before anything of the run is written.
    """
    check_world(config)
    use_gpu = _reserve(config)
    features = _open(config, progress)
    check(config, features)
    if resume and (config.run_path / "run.json").exists():
        run = Run.open(config.run_path)
        check_same(run, config, features)
        if run.facts["status"] == "finished":
            return run
    else:
        run = Run.create(config, features)
    with run.held() as dead:
        run.sweep()
        if dead:
            run.update(took_over=asdict(dead))
            text = f"took over from {dead}, which ended without a word"
            progress({"event": "takeover", "text": text})
        try:
            _train(config, run, features, progress, use_gpu=use_gpu)
        except (KeyboardInterrupt, SystemExit):
            with suppress(StoreError):
                run.update(status="interrupted")
            raise
        except BaseException as error:
            with suppress(StoreError):  # which would hide the error, where the disk is full
                run.update(status="failed", error=f"{type(error).__name__}: {error}")
            raise
    return run


def _reserve(config: RunConfig) -> bool:
    """Sees that there is what the run asks for, and whether each process has a GPU.

    Joins or starts Ray where the run has workers (raises ConfigError).
    """
    resources = config.resources
    if resources.workers:
        from trainer.cluster import ray_train

        use_gpu = ray_train.reserve(resources)
    else:
        use_gpu = bool(resources.use_gpu) and torch.cuda.is_available()
        if resources.use_gpu is True and not use_gpu:
            raise ConfigError(
                "resources.use_gpu is true, but there is no GPU", "set it to auto or false"
            )
    if config.train.sync_batchnorm and not use_gpu:
        raise ConfigError(
            "train.sync_batchnorm is set, but there is no GPU",
            "unset it, or use model.encoder.norm: group",
        )
    return use_gpu


def _open(config: RunConfig, progress: loop.Progress) -> FeatureSet:
    """The features of the run, made now from its source where there are none.

    Workers of Ray open them for themselves, with the cache of their node.
    """
    if config.source:
        from trainer.prepare_features import ensure_features

        ensure_features(config, progress)
    if config.resources.workers:
        return FeatureSet.open(config.features_path)
    return open_features(config)


def _train(
    config: RunConfig, run: Run, features: FeatureSet, progress: loop.Progress, *, use_gpu: bool
) -> None:
    if config.resources.workers:
        from trainer.cluster import ray_train

        ray_train.train(config, run, progress, use_gpu=use_gpu)
    else:
        world = World(device=torch.device("cuda" if use_gpu else "cpu"))
        loop.train(config, run, features, world, progress)


def check(config: RunConfig, features: FeatureSet) -> None:
    """Everything about a run that can be known to be wrong before it starts (raises InputError)."""
    if len(features.classes) < 2:
        raise InputError(
            f"features {config.features!r} have {len(features.classes)} class",
            "training needs 2 classes or more",
        )
    if len(features.modalities) < 2 and config.train.warmup_epochs < config.train.epochs:
        raise InputError(
            f"features {config.features!r} have one modality, {features.modalities[0]!r}",
            "remixing needs two or more; set warmup_epochs to epochs",
        )
    for split in SPLITS:
        if not len(features.rows_of(split)):
            raise InputError(
                f"split {split!r} of features {config.features!r} is empty",
                "import again, e.g. with --split-by or --validation-share",
            )
    model = model_for(config.model, features, config.seed)
    strategy_of(config).check(config, model)
    target_of(config.plan, features.modalities, len(features.rows_of("train")))
    check_policy(config, features)
    check_valuation(config, features)
    check_cache(config, features)


def check_same(run: Run, config: RunConfig, features: FeatureSet) -> None:
    """Raises MismatchError where a run that exists was asked for something else."""
    facts = run.facts
    if facts["features"]["fingerprint"] != features.fingerprint:
        raise MismatchError(
            f"run {config.name!r} was started on features {facts['features']['fingerprint'][:12]}, not {features.fingerprint[:12]}",
            "choose another name, or restore its features",
        )
    # not by the digest: one of an older version has other fields
    recorded = parse(RunConfig, facts["config"], str(run.path / "run.json"))
    if changed := recorded.differences(config):
        raise MismatchError(
            f"run {config.name!r} was started with another configuration of {', '.join(changed)}",
            "choose another name, or restore the configuration; only `source` and `resources` may change",
        )
