"""An epoch's plan: joint in warm-up, afterwards scored by the live model and remixed; committed once, then read by every rank."""

import time

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError, MismatchError, RemixError
from pipeline.features.feature_set import FeatureSet, write_table
from pipeline.features.id_index import write_step_index
from pipeline.plans.builder import Draft
from pipeline.plans.plan import BatchPlan, joint_draft, remix_draft, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.scores.build import join_scores, score_rows
from pipeline.scores.table import Scores
from pipeline.storage.store_path import Place
from trainer.config import RunConfig
from trainer.data.part_prefetcher import fetching
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.cross_fitting import fit_heads
from trainer.scoring.predictor import Predictor
from trainer.scoring.shapley import with_values


def check_policy(config: RunConfig, features: FeatureSet) -> None:
    """Raises ConfigError where the first plan after warm-up needs a validation accuracy that there will not be."""
    fields = [
        f"plan.{name}"
        for name in ("relative", "shares")
        if getattr(config.plan, name) == "validation"
    ]
    if not fields:
        return
    if not config.train.warmup_epochs:
        raise ConfigError(
            f"field '{fields[0]}' is 'validation', but train.warmup_epochs is 0, so that the first plan comes before any validation",
            "set train.warmup_epochs to 1 or more",
        )
    has = features.has[features.rows_of("validation")].any(axis=0)
    if not has.all():
        name = features.modalities[int(np.argmin(has))]
        raise ConfigError(
            f"field '{fields[0]}' is 'validation', but no sample of the split 'validation' has {name!r}",
            "choose another value",
        )


def epoch_plan(
    config: RunConfig,
    features: FeatureSet,
    run: Run,
    world: World,
    predictor: Predictor,
    epoch: int,
) -> tuple[BatchPlan, dict[str, float]]:
    """The committed plan of an epoch and the seconds that scoring and planning took; what an earlier process committed is used as it is."""
    if not world.broadcast(run.plan(epoch).exists()):
        began = time.perf_counter()
        scores_place = (
            _score(config, features, run, world, predictor, epoch)
            if epoch >= config.train.warmup_epochs
            else None
        )
        scored = time.perf_counter()
        if world.leads:
            _commit(config, features, run, epoch, scores_place)
            run.times(epoch).write_json(
                {"score_seconds": scored - began, "plan_seconds": time.perf_counter() - scored}
            )
    world.broadcast(None)
    times = run.times(epoch)
    return BatchPlan.open(run.plan(epoch), trusted=True), times.read_json() if times.exists() else {
        "score_seconds": 0.0,
        "plan_seconds": 0.0,
    }


def _score(
    config: RunConfig,
    features: FeatureSet,
    run: Run,
    world: World,
    predictor: Predictor,
    epoch: int,
) -> Place:
    """Where the scores of the epoch lie: made now, each rank its stripe, or those of the last epoch that was scored (`rescore_every`)."""
    since = (epoch - config.train.warmup_epochs) % config.train.rescore_every
    place = run.scores(epoch - since)
    if not world.broadcast(place.exists()):
        rows = features.rows_of("train")
        predict = (
            fit_heads(config, features, world, predictor)
            if config.train.scores == "cross_fitted"
            else predictor
        )
        mine = []
        for number, batch in fetching(features, rows, config.train.score_batch, world):
            table = score_rows(features, batch, predict(batch))
            mine.append(
                (
                    number,
                    with_values(table, features, batch, predictor)
                    if config.plan.copies == "resample"
                    else table,
                )
            )
        parts = [part for rank in world.gather(mine) for part in rank]
        if world.leads:
            _check_finite(parts, features, epoch)
            write_table(place, _join(parts, config, features, run, epoch - since))
    return place


def _join(
    parts: list[tuple[int, pa.Table]], config: RunConfig, features: FeatureSet, run: Run, epoch: int
) -> pa.Table:
    """The scores of an epoch, with what the epochs before it add to them: validation accuracies, and smoothed scores."""
    last, smoothing = epoch - config.train.rescore_every, config.plan.smoothing
    previous = (
        Scores.open(run.scores(last)) if smoothing and last >= config.train.warmup_epochs else None
    )
    facts = {
        "accuracy": validation_accuracy(run, features.modalities, epoch),
        "smoothing": smoothing,
        "previous": previous,
    }
    return join_scores(parts, features, epoch, {"config": config.digest}, config.seed, **facts)


def validation_accuracy(run: Run, modalities: list[str], epoch: int) -> dict[str, float]:
    """The unimodal heads' at the end of the epoch before, of the modalities that validation samples have; none where no epoch has ended."""
    if not epoch or not (run.place / "epochs.arrow").exists():
        return {}
    row = run.epochs().slice(epoch - 1, 1).to_pylist()[0]
    return {
        name: row[f"validation_accuracy_{name}"]
        for name in modalities
        if row[f"validation_accuracy_{name}"] is not None
    }


def _check_finite(parts: list[tuple[int, pa.Table]], features: FeatureSet, epoch: int) -> None:
    """Raises RemixError where the model predicts NaN: nothing can be planned from that, and nothing is written."""
    for _, table in parts:
        for k, name in enumerate(features.modalities):
            lost = np.flatnonzero(
                np.isnan(table[f"kl_{name}"].to_numpy()) & features.has[table["row"].to_numpy(), k]
            )
            if len(lost):
                row = table["row"][int(lost[0])].as_py()
                raise RemixError(
                    f"epoch {epoch}: the model's prediction of {name!r} for row {row} is NaN",
                    "train has diverged: lower optimizer.lr or set clip_norm",
                )


def _commit(
    config: RunConfig, features: FeatureSet, run: Run, epoch: int, scores_place: Place | None
) -> None:
    """Writes the plan under a hidden name, its statistics and its index, then the plan: a reader that sees the plan finds both."""
    scores = Scores.open(scores_place) if scores_place else None
    staged = run.plan(epoch).parent / f".{run.plan(epoch).name}"
    write_plan(staged, _draft(config, features, epoch, scores))
    plan = BatchPlan.open(staged, trusted=True)
    previous = BatchPlan.open(run.plan(epoch - 1), trusted=True) if epoch else None
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


def _draft(config: RunConfig, features: FeatureSet, epoch: int, scores: Scores | None) -> Draft:
    num_classes, batch_size = len(features.classes), config.train.batch_size
    parents = {"features": features.fingerprint, "config": config.digest}
    if scores:
        scores.check_features(features)
        if not np.array_equal(scores.rows, features.rows_of("train")):
            raise MismatchError(
                f"{scores.what} has {len(scores)} rows, which are not those of the split 'train'",
                "score that split",
            )
        return remix_draft(
            scores,
            config.plan,
            batch_size,
            config.seed,
            epoch,
            num_classes=num_classes,
            parents=parents,
        )
    rows, names = features.rows_of("train"), features.modalities
    labels = features.labels[rows]
    return joint_draft(
        rows,
        batch_size,
        config.seed,
        epoch,
        config=config.plan,
        modalities=names,
        labels=labels,
        num_classes=num_classes,
        parents=parents,
    )
