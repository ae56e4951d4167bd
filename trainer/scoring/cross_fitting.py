"""Cross-fitted scoring: each row is scored by a head that was not trained on it.

The heads are fitted to the encoders' current features (`train.scores: cross_fitted`).
"""

import numpy as np
import torch

from pipeline.arrays import Float32Array, Int64Array
from pipeline.errors import RemixError
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.build import Predict
from trainer.config import RunConfig
from trainer.data.part_prefetcher import prefetched_rows
from trainer.process_group import World
from trainer.scoring.lda import Grid, Heads, Statistics, fit, folds_of
from trainer.scoring.predictor import Predictor


def fit_heads(
    config: RunConfig, features: FeatureSet, world: World, predictor: Predictor
) -> Predict:
    """Fit heads on the train split, and return a function that predicts its rows out of fold.

    Reads the split once, each rank every `world.size`-th batch. Raises RemixError if a feature is
    not finite.
    """
    grids = world.broadcast(_grids(config, features, predictor) if world.is_rank_zero else {})
    heads: dict[str, Heads] = {}
    for name, own in _statistics(config, features, world, predictor, grids).items():
        total = world.sum(torch.from_numpy(own.values).to(world.device)).cpu().numpy()
        summed = Statistics(len(features.classes), len(grids[name].exponents), total)
        heads[name] = world.broadcast(
            fit(summed) if world.is_rank_zero else Heads(np.empty(0), np.empty(0), np.empty(0))
        )

    def predict(rows: Int64Array) -> dict[str, Float32Array]:
        folds = folds_of(rows, config.seed)
        return {
            name: heads[name](grids[name](x), folds)
            for name, x in _finite(predictor, features, rows).items()
        }

    return predict


def _grids(config: RunConfig, features: FeatureSet, predictor: Predictor) -> dict[str, Grid]:
    """The grid of each modality, from the first rows that have it."""
    rows, grids = features.rows_of("train"), {}
    for k, name in enumerate(features.modalities):
        sample = rows[features.has[rows, k]][: config.train.score_batch]
        grids[name] = Grid.of(
            _finite(predictor, features, sample if len(sample) else rows[:1])[name]
        )
    return grids


def _statistics(
    config: RunConfig,
    features: FeatureSet,
    world: World,
    predictor: Predictor,
    grids: dict[str, Grid],
) -> dict[str, Statistics]:
    """The statistics of this rank's batches, per modality."""
    statistics = {
        name: Statistics(len(features.classes), len(grid.exponents)) for name, grid in grids.items()
    }
    for _, batch in prefetched_rows(
        features, features.rows_of("train"), config.train.score_batch, world
    ):
        labels, folds = features.labels[batch], folds_of(batch, config.seed)
        for k, (name, x) in enumerate(_finite(predictor, features, batch).items()):
            present = features.has[batch, k]
            statistics[name].add(grids[name](x[present]), labels[present], folds[present])
    return statistics


def _finite(
    predictor: Predictor, features: FeatureSet, rows: Int64Array
) -> dict[str, Float32Array]:
    """The features (B, D_k) of each modality, zero for rows that lack it.

    Raises RemixError if one is not finite.
    """
    values = predictor.features(rows)
    for k, (name, x) in enumerate(values.items()):
        present = features.has[rows, k]
        diverged = np.flatnonzero(present & ~np.isfinite(x).all(axis=1))
        if len(diverged):
            raise RemixError(
                f"training diverged: the features of {name!r} for row {rows[diverged[0]]} "
                "are not finite",
                "lower optimizer.lr or set clip_norm",
            )
        values[name] = np.where(present[:, None], x, np.float32(0))
    return values
