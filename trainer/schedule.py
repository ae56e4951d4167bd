"""What each epoch of a method trains: a function of the configuration and the epochs before.

- joint: every row trains all its modalities.
- remix: every row trains one modality, by its scores.
- pure: every row trains each of some modalities, in batches of one modality.

`handover` trains jointly until a modality's own validation loss has stopped falling. That modality
returns to its best state and is left alone; the others are trained in pure batches, as many as cost
about one joint epoch, until they stop too. The last quarter of the run trains all modalities
jointly from their best states, at a tenth of the learning rate.

`auto` is `joint` until a race is won: when a modality has stopped, `handover` is trained for
RACE_EPOCHS from the same checkpoint (trainer/race.py), and takes over if its validation loss is
then lower by more than a standard error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.config import RunConfig
from trainer.methods import METHODS

MIN_PATIENCE = 3
"""A modality has stopped after this many epochs without a lower loss, or after as many as it took
to reach its lowest loss, whichever is more."""
FINAL_SHARE = 0.25
FINAL_RATE = 0.1
"""Share of the run, and factor of the learning rate, of the last phase of `handover`."""
RACE_EPOCHS = 2
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """What an epoch trains."""

    kind: Literal["joint", "remix", "pure"]
    passes: dict[str, int] = field(default_factory=dict)
    """How often each row trains a modality, if `pure`."""
    rate: float = 1.0
    """Factor of the learning rate."""
    restored: tuple[str, ...] = ()
    """Modalities whose encoder and head return to their best state before the epoch."""


def schedule_of(config: RunConfig, history: Sequence[Row]) -> str:
    """The schedule of the epoch that follows; of `auto`, the one that has taken over, if any."""
    schedule = METHODS[config.method].schedule
    if schedule != "auto":
        return schedule
    return str(history[-1]["schedule"]) if history else "joint"


def phase_of(
    config: RunConfig, modalities: Sequence[str], history: Sequence[Row], schedule: str
) -> Phase:
    """The phase of the epoch that follows those of `history`, rows of epochs.arrow."""
    if schedule == "joint" or len(history) < config.train.warmup_epochs:
        return Phase(kind="joint")
    if schedule == "remix":
        return Phase(kind="remix")
    if schedule == "alternate":
        return Phase(kind="pure", passes=dict.fromkeys(modalities, 1))
    return _handover(config, modalities, history)


def race_is_due(config: RunConfig, modalities: Sequence[str], history: Sequence[Row]) -> bool:
    """Whether `auto` trains `handover` besides, from the state after `history`.

    A race starts if a modality has stopped since the last one started, that one has ended, and the
    rest of the run is longer than it. A budget must have room for both sides, which it pays for.
    """
    if METHODS[config.method].schedule != "auto" or schedule_of(config, history) != "joint":
        return False
    known: list[str] = []
    start = -RACE_EPOCHS
    for epoch in range(len(history) + 1):
        stopped = [name for name in modalities if has_stopped(name, config, history[:epoch])]
        if stopped != known and epoch >= start + RACE_EPOCHS:
            known, start = stopped, epoch
    if start != len(history) or start + RACE_EPOCHS >= config.train.epochs:
        return False
    if not config.train.budget.is_set:
        return True
    done, before = (row["progress"] for row in ({"progress": 0.0}, *history)[:-3:-1])
    return bool(done + (2 * RACE_EPOCHS + 1) * (done - before) < 1)


def is_converged(
    config: RunConfig, modalities: Sequence[str], history: Sequence[Row], schedule: str
) -> bool:
    """Whether `train.patience` epochs have passed without a better epoch.

    The fusion is not trained while `handover` trains modalities in batches of their own, so those
    epochs neither count nor end a run.
    """
    patience = config.train.patience
    if patience is None or not history or history[-1]["best_epoch"] is None:
        return False
    start = history[-1]["best_epoch"] + 1
    if schedule == "handover":
        if phase_of(config, modalities, history, schedule).kind == "pure":
            return False
        pure = (row["epoch"] for row in history if row["policy"] == "pure")
        start = max([start, *(epoch + 1 for epoch in pure)])
    return bool(len(history) - start >= patience)


def _handover(config: RunConfig, modalities: Sequence[str], history: Sequence[Row]) -> Phase:
    active, is_final = _state(config, modalities, history)
    active_before, was_final = _state(config, modalities, history[:-1])
    if is_final:
        restored = () if was_final else tuple(modalities)
        return Phase(kind="joint", rate=FINAL_RATE, restored=restored)
    if len(active) == len(modalities):
        return Phase(kind="joint")
    num_passes = max(1, round(len(modalities) / len(active)))
    return Phase(
        kind="pure",
        passes=dict.fromkeys(active, num_passes),
        restored=tuple(name for name in active_before if name not in active),
    )


def _state(
    config: RunConfig, modalities: Sequence[str], history: Sequence[Row]
) -> tuple[list[str], bool]:
    """The modalities that have not stopped, and whether the last phase has begun."""
    active = [name for name in modalities if not has_stopped(name, config, history)]
    is_late = bool(history) and history[-1]["progress"] >= 1 - FINAL_SHARE
    return active, not active or (is_late and len(active) < len(modalities))


def has_stopped(name: str, config: RunConfig, history: Sequence[Row]) -> bool:
    """Whether a modality's validation loss has stopped falling, in this or an earlier epoch."""
    best, best_epoch = float("inf"), 0
    for row in history:
        loss = row[f"calibrated_loss_{name}"]
        if loss is not None and loss < best:
            best, best_epoch = loss, row["epoch"]
        since = max(best_epoch, config.train.warmup_epochs - 1)
        if row["epoch"] - since >= max(MIN_PATIENCE, best_epoch + 1):
            return True
    return False
