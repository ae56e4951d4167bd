"""Choice of epochs by validation: of the tested model, and of each modality's encoder and head."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.storage.schemas import METRICS
from trainer.config import RunConfig
from trainer.models.checkpoint import BestPart, Cursor


def update_best(
    cursor: Cursor, row: Mapping[str, Any], config: RunConfig, modalities: Sequence[str]
) -> list[str]:
    """Record in the cursor what is better in an epoch than in all epochs before.

    The tested model is chosen by `train.select`. Each modality's encoder and head come from the
    epoch of its own lowest calibrated loss, the warm-up included. They come from the tested epoch
    if no validation sample has the modality, and if the fusion gates the encoders, which then
    depend on the fusion's weights.

    Args:
        row: The epoch's row of epochs.arrow.
    Returns:
        The improved modalities, and "best" if the epoch becomes the tested one.
    """
    epoch, metric = row["epoch"], config.train.select.metric
    value = row[METRICS[metric]] * (-1 if metric == "loss" else 1)
    is_best = epoch >= config.first_selectable and (
        cursor.best_epoch < 0 or value > cursor.best_value
    )
    if is_best:
        cursor.best_epoch, cursor.best_value = epoch, value
    improved = []
    for name in modalities:
        loss, previous = row[f"calibrated_loss_{name}"], cursor.best_parts.get(name)
        if previous is None or (
            is_best
            if config.model.gates or loss is None or previous.loss is None
            else loss < previous.loss
        ):
            part = BestPart(epoch=epoch, loss=loss, temperature=row[f"temperature_{name}"])
            cursor.best_parts[name] = part
            improved.append(name)
    return [*improved, *(["best"] if is_best else [])]
