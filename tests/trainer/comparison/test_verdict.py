"""The verdict follows from the numbers of the table alone."""

from typing import Any

import pytest

from trainer.comparison.verdict import headline, notes, verdict


def spread(mean: float, half: float | None) -> dict[str, float | None]:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high}


def test_of(method: str, against: str, accuracy: str, mean: float, p: float | None) -> Any:
    names = {"method": method, "against": against, "accuracy": accuracy}
    return {**names, "difference": {"mean": mean}, "p": p, "p_holm": p}


test_of.__test__ = False  # type: ignore[attr-defined]


def table(
    accuracies: dict[str, tuple[float, float]],
    tests: list[Any],
    *,
    half: float | None = 0.02,
    majority: float = 0.2,
) -> dict[str, Any]:
    """A table of methods with their mean fused and assembled accuracy."""
    return {
        "seeds": [0] if half is None else [0, 1, 2],
        "reference": "joint_heads",
        "budget": "flops",
        "majority": {"name": "c0", "accuracy": majority},
        "methods": [
            {
                "method": method,
                "accuracy": {"fused": spread(fused, half), "assembled": spread(assembled, half)},
                "tested_epoch": {"in_warmup": []},
                "budget_ratio": {"median": 1.0, "each": [1.0, 0.991, 1.0]},
            }
            for method, (fused, assembled) in accuracies.items()
        ],
        "tests": tests,
    }


def test_remix_wins_by_the_fused_head_and_joint_training_once_assembled() -> None:
    assert verdict(
        table(
            {
                "joint_heads": (0.651, 0.901),
                "random": (0.691, 0.823),
                "remix": (0.839, 0.875),
                "unimodal": (0.6, 0.86),
            },
            [
                test_of("random", "joint_heads", "fused", 0.04, 0.3),
                test_of("random", "joint_heads", "assembled", -0.078, 0.01),
                test_of("remix", "joint_heads", "fused", 0.188, 0.001),
                test_of("remix", "joint_heads", "assembled", -0.026, 0.04),
                test_of("remix", "random", "fused", 0.148, 0.004),
                test_of("remix", "random", "assembled", 0.052, 0.2),
            ],
        )
    ) == (
        "By the paper's protocol (fused head), remix is best (83.9%), and by the assembled model, "
        "joint_heads is best (90.1%); random (assembled, -7.8 points), remix (fused, +18.8 points) "
        "and remix (assembled, -2.6 points) differ significantly from joint_heads after Holm's "
        "correction for 6 tests. By the fused head, remix beats joint_heads (+18.8 points) and "
        "random (+14.8 points); assembled, remix is significantly worse than joint_heads (-2.6 "
        "points) and does not differ significantly from random (+5.2 points): assembled "
        "joint_heads is as good as or better than assembled remix (90.1% and 87.5%)."
    )


def test_nothing_is_significant() -> None:
    accuracies = {"joint_heads": (0.65, 0.70), "remix": (0.66, 0.71)}
    tests = [
        test_of("remix", "joint_heads", "fused", 0.01, 0.6),
        test_of("remix", "joint_heads", "assembled", 0.01, None),
    ]
    assert verdict(table(accuracies, tests)) == (
        "By the paper's protocol (fused head), remix is best (66.0%), and by the assembled model, "
        "remix is best (71.0%); no method differs significantly from joint_heads after Holm's "
        "correction for 1 test. By the fused head, remix does not differ significantly from "
        "joint_heads (+1.0 points); assembled, remix does not differ significantly from "
        "joint_heads (+1.0 points)."
    )


def test_one_seed_shows_no_significance() -> None:
    accuracies = {"joint_heads": (0.65, 0.70), "remix": (0.65, 0.69)}
    tests = [
        test_of("remix", "joint_heads", "fused", 0.0, None),
        test_of("remix", "joint_heads", "assembled", -0.01, None),
    ]
    one = table(accuracies, tests, half=None)
    assert verdict(one) == (
        "By the paper's protocol (fused head), joint_heads and remix are best (65.0%), and by the "
        "assembled model, joint_heads is best (70.0%); one seed cannot show whether a difference "
        "is significant. By the fused head, remix equals joint_heads (+0.0 points); assembled, "
        "remix is behind joint_heads (-1.0 points): assembled joint_heads is as good as or better "
        "than assembled remix (70.0% and 69.0%)."
    )
    assert len(notes(one)) == 1


@pytest.mark.parametrize(
    ("majority", "named"),
    [
        (0.62, ""),
        (0.64, "random (fused) is not shown to be better than the majority class (64.0%)."),
        (
            0.9,
            "joint_heads (fused and assembled) and random (fused and assembled) are not shown to "
            "be better than the majority class (90.0%).",
        ),
    ],
)
def test_methods_no_better_than_the_majority_class_are_named(majority: float, named: str) -> None:
    accuracies = {"joint_heads": (0.80, 0.85), "random": (0.65, 0.70)}
    words = verdict(table(accuracies, [], majority=majority))
    assert words.split(" remix was not compared with joint_heads or random.")[1].strip() == named


def test_tested_epochs_in_the_warm_up_are_named() -> None:
    early = table({"joint_heads": (0.6, 0.6), "remix": (0.7, 0.7)}, [])
    assert notes(early) == []
    early["methods"][1]["tested_epoch"]["in_warmup"] = ["c-remix-seed1"]
    [note] = notes(early)
    assert "c-remix-seed1" in note


def test_methods_with_another_budget_are_named() -> None:
    unequal = table({"joint_heads": (0.6, 0.6), "remix": (0.7, 0.7)}, [])
    unequal["methods"][1]["budget_ratio"] = {"median": 0.995, "each": [1.0, 0.989, 0.995]}
    [note] = notes(unequal)
    assert "remix spent 0.989" in note and "joint_heads spent" not in note


@pytest.mark.parametrize(
    ("mean", "p", "half", "sentence"),
    [
        (
            0.124,
            0.21,
            0.2,
            "By the fused head, remix is not shown to differ from joint_heads: +12.4 points"
            " (95% interval -7.6 to +32.4, p = 0.21 after Holm's correction), which may be due to"
            " chance.",
        ),
        (
            0.124,
            0.012,
            0.02,
            "By the fused head, remix beats joint_heads: +12.4 points"
            " (95% interval +10.4 to +14.4, p = 0.012 after Holm's correction).",
        ),
        (
            -0.05,
            0.0004,
            0.01,
            "By the fused head, remix is worse than joint_heads: -5.0 points"
            " (95% interval -6.0 to -4.0, p = 0.0004 after Holm's correction).",
        ),
        (
            0.124,
            None,
            None,
            "By the fused head, remix and joint_heads differ by +12.4 points with one seed, which"
            " gives no interval and no p: the difference may be due to chance.",
        ),
    ],
)
def test_the_headline_is_no_win_where_p_is_not_small(
    mean: float, p: float | None, half: float | None, sentence: str
) -> None:
    best = test_of("remix", "joint_heads", "fused", mean, p)
    best["difference"] = spread(mean, half)
    worse = test_of("random", "joint_heads", "fused", mean - 0.1, 0.01)
    other = test_of("remix", "joint_heads", "assembled", 0.9, 0.01)
    accuracies = {"joint_heads": (0.6, 0.9), "remix": (0.7, 0.9), "random": (0.5, 0.9)}
    assert headline(table(accuracies, [worse, best, other], half=half)) == sentence
