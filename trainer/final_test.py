"""Test a run's model of the best validation epoch, and the assembled one."""

from typing import Any

import pyarrow as pa

from pipeline.features.feature_set import FeatureSet
from trainer.assembly.assemble import assemble
from trainer.config import RunConfig
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Cursor
from trainer.process_group import World
from trainer.recorder import with_assembled
from trainer.run_directory import Run
from trainer.scoring.diagnostics import Diagnostics
from trainer.scoring.metrics import ClassMetrics
from trainer.scoring.predictor import PredictAll, Predictor, evaluate


def test(
    config: RunConfig,
    run: Run,
    features: FeatureSet,
    world: World,
    predictor: Predictor,
    cursor: Cursor,
    diagnostics: Diagnostics | None,
) -> tuple[dict[str, Any], pa.Table | None]:
    """Test the model of the best epoch, which is loaded into that of `predictor`.

    Returns:
        The result for run.json, and the predictions; None on other ranks than 0.
    """
    best = run.checkpoint("best")
    checkpoints.load_weights(best, predictor.model, checkpoints.load(best)["model"])

    def tested(predict: PredictAll) -> tuple[dict[str, Any], list[pa.Table]]:
        outcomes: list[pa.Table] = []
        metrics = ClassMetrics(features, world, auroc=config.train.auroc)
        size = config.train.score_batch
        evaluation = evaluate(predict, features, "test", size, world, outcomes, metrics)
        accuracies = {"test_accuracy": evaluation.accuracy, "test_loss": evaluation.loss}
        return {**accuracies, **metrics.result()}, outcomes

    own, outcomes = tested(predictor)
    result: dict[str, Any] = {"best_epoch": cursor.best_epoch, **own}
    if diagnostics:
        result["zero_mask_accuracy"] = diagnostics.zero_mask_accuracy("test")
    if config.train.assemble:
        assembled, description = assemble(config, run, features, world, predictor, cursor)
        of_assembled, others = tested(assembled)
        outcomes = [
            with_assembled(own, other, features.modalities)
            for own, other in zip(outcomes, others, strict=True)
        ]
        result["assembled"] = {**description, **of_assembled}
    return result, world.join_rows(run.parts("test"), outcomes)
