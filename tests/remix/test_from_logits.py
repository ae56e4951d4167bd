"""From anybody's own logits to a plan, without the project's trainer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import remix
from pipeline.errors import ConfigError, DataError
from tests.support.documentation import PAGES, blocks

LABELS = [0, 1, 1, 0]
AUDIO = np.array([[4.0, 0.0], [0.0, 0.1], [0.0, 5.0], [np.nan, np.nan]])
VIDEO = np.array([[0.2, 0.0], [0.0, 3.0], [np.nan, np.nan], [0.0, 1.0]])


def test_scores_are_abilities_of_the_softmax() -> None:
    scores = remix.scores_from_logits("abcd", LABELS, {"audio": AUDIO, "video": VIDEO})
    assert (scores.modalities, scores.num_classes, len(scores)) == (["audio", "video"], 2, 4)
    assert scores.table["sample_id"].to_pylist() == ["a", "b", "c", "d"]
    p = 1 / (1 + np.exp(-1.0))  # of logits 0 and 1
    bits = 1 + p * np.log2(p) + (1 - p) * np.log2(1 - p)
    assert scores.kl("video")[3] == pytest.approx(bits, rel=1e-6)
    assert scores.table["p_label_video"][3].as_py() == pytest.approx(1 - p, rel=1e-6)
    assert scores.table["predicted_audio"].to_pylist() == [0, 1, 1, -1]
    assert np.isnan(scores.kl("video")).tolist() == [False, False, True, False]


def test_a_plan_trains_the_weaker_modality_of_each_row() -> None:
    scores = remix.scores_from_logits("abcd", LABELS, {"audio": AUDIO, "video": VIDEO})
    plan = remix.plan(scores, batch_size=2)
    assert {row: step.modality for step in plan.steps() for row in step.rows.tolist()} == {
        0: "video",
        1: "audio",
        2: "audio",
        3: "video",
    }


@pytest.mark.parametrize(
    ("labels", "audio", "named"),
    [
        ([0, 1, 1], AUDIO, "labels"),
        ([0, 1, 1, 2], AUDIO, "'d'"),
        (LABELS, AUDIO[:3], "audio"),
        (LABELS, np.hstack([AUDIO, AUDIO]), "video"),
        (LABELS, np.where(np.arange(8).reshape(4, 2) == 3, np.inf, AUDIO), "'b'"),
        (LABELS, np.where(np.arange(8).reshape(4, 2) == 3, np.nan, AUDIO), "'b'"),
    ],
)
def test_what_is_no_set_of_logits_is_refused(
    labels: list[int], audio: np.ndarray, named: str
) -> None:
    with pytest.raises(DataError, match=named):
        remix.scores_from_logits("abcd", labels, {"audio": audio, "video": VIDEO})


def test_one_modality_is_refused() -> None:
    with pytest.raises((DataError, ConfigError), match="modalities"):
        remix.scores_from_logits("abc", LABELS[:3], {"audio": AUDIO[:3]})


def test_the_plain_loop_of_the_documentation_trains(tmp_path: Path) -> None:
    """Two epochs: joint, then by a plan of its own logits, each row once in one modality."""
    code = next(block for block in blocks(PAGES["extending.md"], "python") if "Adam" in block)
    shown = "print(sorted(rows), sorted(trained))"
    (tmp_path / "loop.py").write_text(f"{code}\n{shown}\n")
    ended = subprocess.run(
        [sys.executable, "loop.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{list(range(120))} {['audio', 'video']}\n"
