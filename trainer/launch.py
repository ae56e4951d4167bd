"""From a configuration to a finished run: checked first, then in this process or on Ray Train."""

from contextlib import suppress
from dataclasses import asdict

import torch

from pipeline.errors import MismatchError, StoreError
from pipeline.features.feature_set import FeatureSet
from trainer import loop
from trainer.config import RunConfig, check_world
from trainer.process_group import World
from trainer.run_directory import Run


def launch(
    config: RunConfig, *, resume: bool = False, progress: loop.Progress = lambda event: None
) -> Run:
    """Starts a run, or with `resume` takes up one of that name, and brings it to its end (raises InputError before anything of it is written)."""
    check_world(config)
    if config.resources.workers:
        from trainer.cluster import ray_train as distributed

        distributed.check(config)
    if config.source:
        from trainer.prepare_features import ensure_features

        ensure_features(config, progress)
    features = FeatureSet.open(config.features_place)
    loop.check(config, features)
    if resume and (config.run_place / "run.json").exists():
        run = Run.open(config.run_place)
        check_same(run, config, features)
        if run.facts["status"] == "finished":
            return run
    else:
        run = Run.create(config, features)
    with run.held() as dead:
        run.sweep()
        if dead:
            run.update(took_over=asdict(dead))
            progress(
                {"event": "takeover", "text": f"took over from {dead}, which ended without a word"}
            )
        try:
            _train(config, run, progress)
        except BaseException as error:
            with suppress(StoreError):  # which would hide the error, where the disk is full
                run.update(status="failed", error=f"{type(error).__name__}: {error}")
            raise
    return run


def _train(config: RunConfig, run: Run, progress: loop.Progress) -> None:
    if config.resources.workers:
        from trainer.cluster import ray_train as distributed

        distributed.train(config, run, progress)
    else:
        device = "cuda" if config.resources.use_gpu and torch.cuda.is_available() else "cpu"
        loop.train(config, run, World(device=torch.device(device)), progress)


def check_same(run: Run, config: RunConfig, features: FeatureSet) -> None:
    """Raises MismatchError where a run that exists was asked for something else."""
    facts = run.facts
    if facts["features"]["fingerprint"] != features.fingerprint:
        raise MismatchError(
            f"run {config.name!r} was started on features {facts['features']['fingerprint'][:12]}, not {features.fingerprint[:12]}",
            "choose another name, or restore its features",
        )
    if facts["digest"] != config.digest:
        before, now = facts["config"], config.model_dump(mode="json")
        changed = [
            key
            for key in now
            if before.get(key) != now[key] and key not in ("name", "store", "source", "resources")
        ]
        raise MismatchError(
            f"run {config.name!r} was started with another configuration of {', '.join(changed)}",
            "choose another name, or restore the configuration; only `source` and `resources` may change",
        )
