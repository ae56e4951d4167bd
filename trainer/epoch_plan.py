"""The plan of an epoch: joint during warm-up, then made from the scores of the current model.

Rank 0 writes it once and every rank reads it.
"""

import time
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.builder import PlanBuilder
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import (
    joint_plan_builder,
    pure_plan_builder,
    remix_plan_builder,
    write_plan,
)
from pipeline.plans.stats import plan_statistics
from pipeline.plans.step_index import write_step_index
from pipeline.scores.table import Scores
from trainer.budget import rows_of_epoch
from trainer.config import RunConfig
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.schedule import Phase
from trainer.scoring.epoch_scores import score_epoch
from trainer.scoring.outputs import Collector
from trainer.scoring.predictor import Predictor


def check_policy(config: RunConfig, features: FeatureSet) -> None:
    """Check that a plan that needs validation accuracies can get them. Raises ConfigError."""
    if config.plan.relative != "validation":
        return
    if not config.train.warmup_epochs:
        raise ConfigError(
            "plan.relative is 'validation', but train.warmup_epochs is 0: "
            "no validation precedes the first plan",
            "set train.warmup_epochs to 1 or more",
        )
    present = features.has[features.rows_of("validation")].any(axis=0)
    if not present.all():
        name = features.modalities[int(np.argmin(present))]
        raise ConfigError(
            f"plan.relative is 'validation', but no validation sample has modality {name!r}",
            "set plan.relative to none",
        )


def epoch_plan(
    config: RunConfig,
    features: FeatureSet,
    run: Run,
    world: World,
    predictor: Predictor,
    epoch: int,
    phase: Phase,
    share: float,
    collector: Collector | None = None,
) -> tuple[BatchPlan, dict[str, float]]:
    """Open the plan of an epoch, scoring and planning first if no plan exists yet.

    Args:
        phase: What the epoch trains.
        share: Share of the training rows that it trains.
        collector: If given, receives outputs of the rows, also if plan and scores exist.
    Returns:
        The plan, and the seconds that scoring and planning took.
    """
    exists = world.broadcast(run.plan(epoch).exists())
    if not exists or collector:
        start = time.perf_counter()
        scored_epoch = None
        if phase.kind == "remix":
            rows = rows_of_epoch(config, features, epoch, share)
            scored_epoch = score_epoch(
                config, features, run, world, predictor, epoch, rows, collector
            )
        plan_start = time.perf_counter()
        if world.is_rank_zero and not exists:
            _commit(config, features, run, epoch, phase, share, scored_epoch)
            seconds = {"score_seconds": plan_start - start}
            seconds["plan_seconds"] = time.perf_counter() - plan_start
            run.times(epoch).write_json(seconds)
    world.broadcast(None)  # barrier: the plan is written
    times = run.times(epoch)
    return run.open_plan(epoch), times.read_json() if times.exists() else {
        "score_seconds": 0.0,
        "plan_seconds": 0.0,
    }


def _commit(
    config: RunConfig,
    features: FeatureSet,
    run: Run,
    epoch: int,
    phase: Phase,
    share: float,
    scored_epoch: int | None,
) -> None:
    """Write the plan of an epoch, its statistics and its index.

    The plan is moved to its final name last, so that a reader that sees it finds all three.
    """
    scores = None if scored_epoch is None else run.open_scores(scored_epoch)
    rows = rows_of_epoch(config, features, epoch, share)
    if scores and len(rows) < len(scores):
        scores = scores.take(rows)
    staged = run.plan(epoch).parent / f".{run.plan(epoch).name}"
    write_plan(staged, plan_builder_of(config, features, epoch, phase, scores, run.digest, share))
    plan = BatchPlan.open(staged, trusted=True)
    # the folder of a race begins with a later epoch
    previous = run.open_plan(epoch - 1) if epoch and run.plan(epoch - 1).exists() else None
    statistics = plan_statistics(
        plan,
        labels=features.labels,
        scores=scores,
        previous=previous,
        batch_rows=features.manifest["batch_rows"],
    )
    run.plan_stats(epoch).write_json(statistics)
    write_step_index(run.plan_index(epoch), plan, features.num_rows)
    staged.move(run.plan(epoch))


def plan_builder_of(
    config: RunConfig,
    features: FeatureSet,
    epoch: int,
    phase: Phase,
    scores: Scores | None,
    digest: str,
    share: float = 1.0,
) -> PlanBuilder:
    """Return the builder of an epoch's plan.

    Args:
        phase: what the epoch trains.
        scores: scores of the split 'train', if the phase is `remix`.
        digest: digest of the run, recorded in the plan.
        share: share of the training rows that the epoch trains, recorded if below 1.
    Raises:
        MismatchError: the scores are not those of the epoch's rows.
    """
    common: dict[str, Any] = {
        "batch_size": config.train.batch_size,
        "seed": config.seed,
        "epoch": epoch,
        "config": config.plan,
        "num_classes": len(features.classes),
        "parents": {"features": features.fingerprint, "config": digest},
    }
    rows, names = rows_of_epoch(config, features, epoch, share), features.modalities
    labels = features.labels[rows]
    if scores:
        scores.check_features(features)
        if not np.array_equal(scores.rows, rows):
            raise MismatchError(
                f"{scores.what} does not have the rows that epoch {epoch} trains",
                "score the split 'train'",
            )
        builder = remix_plan_builder(scores, **common)
    elif phase.kind == "pure":
        present = dict(zip(names, features.has[rows].T, strict=True))
        builder = pure_plan_builder(rows, present, phase.passes, labels=labels, **common)
    else:
        builder = joint_plan_builder(rows, modalities=names, labels=labels, **common)
    if share < 1:
        builder.metadata["share"] = share
    return builder
