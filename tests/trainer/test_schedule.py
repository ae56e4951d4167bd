"""What each epoch of a method trains, from the losses of the epochs before."""

from pathlib import Path

import pytest

from tests.support.stores import run_config
from trainer.config import RunConfig
from trainer.schedule import Phase, Row, phase_of, race_is_due, schedule_of

NAMES = ["sound", "sight"]
JOINT = Phase(kind="joint")


def config_of(method: str) -> RunConfig:
    train = {"epochs": 12, "warmup_epochs": 2}
    return run_config(Path("store"), method=method, train=train)


def history_of(sound: list[float | None], sight: list[float | None]) -> list[Row]:
    """Rows of epochs.arrow with these losses of the unimodal heads."""
    return [
        {
            "epoch": epoch,
            "schedule": "joint",
            "progress": (epoch + 1) / 12,
            "calibrated_loss_sound": a,
            "calibrated_loss_sight": b,
        }
        for epoch, (a, b) in enumerate(zip(sound, sight, strict=True))
    ]


FALLING = [2.0 - 0.1 * epoch for epoch in range(12)]
STOPPED = [1.0, 0.5, *[0.6] * 10]
"""The lowest loss is that of epoch 1, the last of the warm-up: stopped after epoch 4."""


def phases(method: str, sound: list[float | None], sight: list[float | None]) -> list[Phase]:
    config, rows = config_of(method), history_of(sound, sight)
    return [
        phase_of(config, NAMES, rows[:epoch], schedule_of(config, rows[:epoch]))
        for epoch in range(12)
    ]


@pytest.mark.parametrize(
    ("method", "phase"),
    [
        ("joint_heads", JOINT),
        ("remix", Phase(kind="remix")),
        ("alternate", Phase(kind="pure", passes={"sound": 1, "sight": 1})),
        ("auto", JOINT),
    ],
)
def test_the_warm_up_is_joint_and_a_method_trains_one_kind_after_it(
    method: str, phase: Phase
) -> None:
    assert phases(method, FALLING, FALLING) == [JOINT] * 2 + [phase] * 10


def test_a_modality_that_has_stopped_hands_its_share_over() -> None:
    pure = {"kind": "pure", "passes": {"sight": 2}}
    last = {"kind": "joint", "rate": 0.1}
    assert phases("handover", STOPPED, FALLING) == [
        *[JOINT] * 5,
        Phase(**pure, restored=("sound",)),
        *[Phase(**pure)] * 3,
        Phase(**last, restored=("sound", "sight")),
        *[Phase(**last)] * 2,
    ]


def test_without_a_modality_that_stops_nothing_is_handed_over() -> None:
    assert phases("handover", FALLING, FALLING) == [JOINT] * 12


def test_if_all_have_stopped_the_last_phase_begins_early() -> None:
    result = phases("handover", STOPPED, STOPPED)
    assert result[5] == Phase(kind="joint", rate=0.1, restored=("sound", "sight"))
    assert result[6:] == [Phase(kind="joint", rate=0.1)] * 6


def test_a_modality_without_validation_samples_has_stopped() -> None:
    assert phases("handover", [None] * 12, FALLING)[5].passes == {"sight": 2}


def test_a_race_is_due_when_another_modality_has_stopped_and_none_is_running() -> None:
    later = [1.0, 0.9, 0.8, 0.7, *[0.75] * 8]  # stopped after epoch 7
    config, rows = config_of("auto"), history_of(STOPPED, later)
    due = [epoch for epoch in range(12) if race_is_due(config, NAMES, rows[:epoch])]
    assert due == [5, 8]
    won = [{**row, "schedule": "handover"} for row in rows]
    assert not any(race_is_due(config, NAMES, won[:epoch]) for epoch in range(1, 12))
    assert phase_of(config, NAMES, won[:6], schedule_of(config, won[:6])).kind == "pure"
    assert not any(race_is_due(config_of("joint_heads"), NAMES, rows[:n]) for n in range(12))
    soon = [1.0, 0.9, 0.4, *[0.5] * 9]  # stopped after epoch 5, during the first race
    rows = history_of(STOPPED, soon)
    assert [epoch for epoch in range(12) if race_is_due(config, NAMES, rows[:epoch])] == [5, 7]
