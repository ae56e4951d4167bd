"""Check a run's configuration, then train it in this process or on Ray Train."""

from contextlib import suppress
from dataclasses import asdict

import torch

from pipeline.config import parse
from pipeline.errors import ConfigError, InputError, MismatchError, StoreError
from pipeline.extensions import check_identities
from pipeline.features.feature_set import FeatureSet
from pipeline.features.gaps import gaps
from pipeline.plans.target_shares import target_of
from pipeline.storage.schemas import SPLITS
from trainer import loop
from trainer.config import RunConfig, check_world
from trainer.data.part_prefetcher import check_cache, open_features
from trainer.epoch_plan import check_policy
from trainer.loggers import check_loggers
from trainer.models.encoder_config import SOURCES
from trainer.models.model import model_for
from trainer.process_group import World
from trainer.refit_fusion import check_refit
from trainer.run_directory import Run
from trainer.scoring.shapley import check_valuation
from trainer.strategies import strategy_of
from trainer.strategies.class_weights import class_weights


def launch(
    config: RunConfig, *, resume: bool = False, progress: loop.Progress = lambda event: None
) -> Run:
    """Train a run to its end; with `resume`, continue a run of that name if it exists.

    Raises InputError before anything of the run is written.
    """
    check_world(config)
    check_loggers(config)
    use_gpu = _reserve(config)
    features = _open(config, progress)
    check(config, features)
    if resume and (config.run_path / "run.json").exists():
        run = Run.open(config.run_path)
        check_same(run, config, features)
        if run.metadata["status"] == "finished":
            return run
    else:
        run = Run.create(config, features)
    for gap in gaps(features):
        progress({"event": "note", "text": gap})
    with run.lock() as dead:
        run.sweep()
        if dead:
            run.update(took_over=asdict(dead))
            text = f"took over from {dead}, which is no longer running"
            progress({"event": "takeover", "text": text})
        try:
            _train(config, run, features, progress, use_gpu=use_gpu)
        except (KeyboardInterrupt, SystemExit):
            with suppress(StoreError):
                run.update(status="interrupted")
            raise
        except BaseException as error:
            with suppress(StoreError):  # a full disk must not hide the original error
                run.update(status="failed", error=f"{type(error).__name__}: {error}")
            raise
    return run


def _reserve(config: RunConfig) -> bool:
    """Check that the configured resources exist; returns whether each process has a GPU.

    Joins or starts Ray if the run has workers. Raises ConfigError.
    """
    resources = config.resources
    if resources.workers:
        from trainer.cluster import ray_train

        use_gpu = ray_train.reserve(resources)
    else:
        use_gpu = bool(resources.use_gpu) and torch.cuda.is_available()
        if resources.use_gpu is True and not use_gpu:
            raise ConfigError(
                "resources.use_gpu is true, but no GPU is available",
                "set it to auto or false",
            )
    if config.train.sync_batchnorm and not use_gpu:
        raise ConfigError(
            "train.sync_batchnorm is set, but no GPU is available",
            "unset it, or use model.encoder.norm: group",
        )
    return use_gpu


def _open(config: RunConfig, progress: loop.Progress) -> FeatureSet:
    """Open the run's features; decodes them from its source first if they do not exist.

    Ray workers open them again through the cache of their own node.
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
    """Check a run before anything is written. Raises InputError, DataError."""
    _ = features.samples  # validated once for all ranks, which read only the columns they need
    if len(features.classes) < 2:
        raise InputError(
            f"features {config.features!r} have {len(features.classes)} class(es)",
            "training needs at least 2",
        )
    if len(features.modalities) < 2 and config.joint_epochs < config.train.epochs:
        raise InputError(
            f"features {config.features!r} have only one modality: {features.modalities[0]!r}",
            f"method {config.method!r} needs at least 2; to train one, set method to joint_heads",
        )
    for split in SPLITS:
        if not len(features.rows_of(split)):
            raise InputError(
                f"split {split!r} of features {config.features!r} is empty",
                "import again, e.g. with --split-by or --validation-share",
            )
    if config.train.sync_batchnorm and SOURCES["timm"] in config.model.import_paths:
        raise ConfigError(
            "train.sync_batchnorm is set, but BatchNorm layers of timm cannot be synchronised",
            "unset it, or use kind: torchvision",
        )
    model = model_for(config.model, features, config.seed)
    strategy_of(config).check(config, model)
    check_refit(config, model)
    class_weights(config, features)
    target_of(config.plan, features.modalities, len(features.rows_of("train")))
    check_policy(config, features)
    check_valuation(config, features)
    check_cache(config, features)


def check_same(run: Run, config: RunConfig, features: FeatureSet) -> None:
    """Check that an existing run has these features and this configuration.

    Raises MismatchError.
    """
    metadata = run.metadata
    recorded_features = metadata["features"]["fingerprint"]
    if recorded_features != features.fingerprint:
        raise MismatchError(
            f"run {config.name!r} was trained on features {recorded_features[:12]}, "
            f"not {features.fingerprint[:12]}",
            "restore its features or choose another name",
        )
    # compare fields, not digests: an older version had other fields
    recorded = parse(RunConfig, metadata["config"], str(run.path / "run.json"))
    if changed := recorded.differences(config):
        raise MismatchError(
            f"run {config.name!r} exists with other values of {', '.join(changed)}",
            "restore them or choose another name; only source, resources and loggers may change",
        )
    recorded = metadata.get("extensions", {})
    check_identities(f"run {config.name!r}", recorded, config.model.weights)
