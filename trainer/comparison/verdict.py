"""A comparison's result in words, computed from the numbers of table.json alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.comparison.budget import TOLERANCE, UNITS
from trainer.comparison.methods import CONTROL, REFERENCE
from trainer.comparison.run_result import ASSEMBLED, KINDS
from trainer.comparison.statistics import TINY
from trainer.models.model import FUSED

ALPHA = 0.05
"""Differences with a corrected p below this are called significant."""
METHOD = "remix"

Table = Mapping[str, Any]


def verdict(table: Table) -> str:
    """Which method is best, whether it matters, and what `remix` gains.

    Two sentences; a third one names the methods that are no better than the majority class.
    """
    sentences = [f"{_best(table)}; {_significance(table)}.", _remix(table), *_majority(table)]
    return " ".join(sentences)


def headline(table: Table) -> str:
    """How the best method but the reference compares with it by the fused head, in one sentence.

    A method beats the reference only if the corrected p is below ALPHA.
    """
    reference = table["reference"]
    own = [
        test
        for test in table["tests"]
        if test["against"] == reference and test["accuracy"] == FUSED
    ]
    if not own:
        return f"No method was compared with {reference} by the fused head."
    test = max(own, key=lambda test: test["difference"]["mean"])
    method, difference = test["method"], test["difference"]
    points = _points(difference["mean"])
    if len(table["seeds"]) == 1:
        return (
            f"By the fused head, {method} and {reference} differ by {points} with one seed, which"
            " gives no interval and no p: the difference may be due to chance."
        )
    if test["p_holm"] is None or difference["low"] is None:
        return (
            f"By the fused head, {method} and {reference} differ by {points} with every seed, for"
            " which no interval and no p are defined."
        )
    numbers = (
        f"{points} (95% interval {100 * difference['low']:+.1f} to"
        f" {100 * difference['high']:+.1f}, p = {test['p_holm']:.2g} after Holm's correction)"
    )
    if _is_significant(test):
        verb = "beats" if difference["mean"] > 0 else "is worse than"
        return f"By the fused head, {method} {verb} {reference}: {numbers}."
    return (
        f"By the fused head, {method} is not shown to differ from {reference}: {numbers}, which may"
        " be due to chance."
    )


def notes(table: Table) -> list[str]:
    """Footnotes of the table of results."""
    listed = []
    if inside := [run for row in table["methods"] for run in row["tested_epoch"]["in_warmup"]]:
        listed.append(f"† The tested epoch is in the warm-up: {', '.join(inside)}.")
    farthest = {
        row["method"]: max(row["budget_ratio"]["each"], key=lambda ratio: abs(ratio - 1))
        for row in table["methods"]
    }
    if unequal := [
        f"{method} spent {ratio:.3f}"
        for method, ratio in farthest.items()
        if abs(ratio - 1) > TOLERANCE
    ]:
        base = f"of the {UNITS[table['budget']]} of {table['reference']}"
        listed.append(f"The budget is not equal: {base}, in the worst seed, {_listed(unequal)}.")
    if len(table["seeds"]) == 1:
        listed.append("One seed: no interval and no test over seeds.")
    return listed


def _best(table: Table) -> str:
    """The best methods by each accuracy."""
    names = {FUSED: "by the paper's protocol (fused head)", ASSEMBLED: "by the assembled model"}
    parts = []
    for kind in KINDS:
        means = {
            row["method"]: row["accuracy"][kind]["mean"]
            for row in table["methods"]
            if kind in row["accuracy"]
        }
        if means:
            highest = max(means.values())
            best = [method for method, mean in means.items() if mean > highest - TINY]
            verb = "is" if len(best) == 1 else "are"
            parts.append(f"{names[kind]}, {_listed(best)} {verb} best ({_percent(highest)})")
    text = ", and ".join(parts)
    return text[0].upper() + text[1:]


def _significance(table: Table) -> str:
    """The methods that differ significantly from the reference."""
    if len(table["seeds"]) == 1:
        return "one seed cannot show whether a difference is significant"
    reference = table["reference"]
    significant = [
        f"{test['method']} ({test['accuracy']}, {_points(test['difference']['mean'])})"
        for test in table["tests"]
        if test["against"] == reference and _is_significant(test)
    ]
    num_tests = sum(test["p"] is not None for test in table["tests"])
    corrected = f"after Holm's correction for {num_tests} test{'s' if num_tests != 1 else ''}"
    if not significant:
        return f"no method differs significantly from {reference} {corrected}"
    verb = "differs" if len(significant) == 1 else "differ"
    return f"{_listed(significant)} {verb} significantly from {reference} {corrected}"


def _remix(table: Table) -> str:
    """What `remix` gains over joint training and over random assignment."""
    own = [
        test
        for test in table["tests"]
        if test["method"] == METHOD and test["against"] in (REFERENCE, CONTROL)
    ]
    if not own:
        return f"{METHOD} was not compared with {REFERENCE} or {CONTROL}."
    names = {FUSED: "By the fused head", ASSEMBLED: "assembled"}
    parts = []
    for kind in KINDS:
        relations: dict[str, list[str]] = {}
        for test in own:
            if test["accuracy"] == kind:
                mean = test["difference"]["mean"]
                verb = _relation(test, num_seeds=len(table["seeds"]))
                relations.setdefault(verb, []).append(f"{test['against']} ({_points(mean)})")
        if relations:
            listed = _listed([f"{verb} {_listed(others)}" for verb, others in relations.items()])
            parts.append(f"{names[kind]}, {METHOD} {listed}")
    return f"{'; '.join(parts)}{_plainly(table)}."


def _relation(test: Mapping[str, Any], num_seeds: int) -> str:
    """How a method compares with another one."""
    mean = test["difference"]["mean"]
    if _is_significant(test):
        return "beats" if mean > 0 else "is significantly worse than"
    if num_seeds > 1:
        return "does not differ significantly from"
    return "equals" if abs(mean) < TINY else "is ahead of" if mean > 0 else "is behind"


def _plainly(table: Table) -> str:
    """Whether joint training, assembled, is as good as `remix`, assembled."""
    by = {row["method"]: row["accuracy"] for row in table["methods"]}
    if REFERENCE not in by or ASSEMBLED not in by[REFERENCE]:
        return ""
    joint, remix = by[REFERENCE][ASSEMBLED]["mean"], by[METHOD][ASSEMBLED]["mean"]
    if joint < remix - TINY:
        return ""
    percents = f"{_percent(joint)} and {_percent(remix)}"
    return f": assembled {REFERENCE} is as good as or better than assembled {METHOD} ({percents})"


def _majority(table: Table) -> Iterator[str]:
    """Methods whose interval contains the accuracy of the majority class, or is below it."""
    accuracy = table["majority"]["accuracy"]
    weak: dict[str, list[str]] = {}
    for row in table["methods"]:
        for kind in KINDS:
            value = row["accuracy"].get(kind)
            if value and (value["mean"] if value["low"] is None else value["low"]) <= accuracy:
                weak.setdefault(row["method"], []).append(kind)
    if weak:
        named = _listed([f"{method} ({_listed(kinds)})" for method, kinds in weak.items()])
        verb = "is" if len(weak) == 1 else "are"
        majority = f"the majority class ({_percent(accuracy)})"
        yield f"{named} {verb} not shown to be better than {majority}."


def _is_significant(test: Mapping[str, Any]) -> bool:
    return test["p_holm"] is not None and test["p_holm"] < ALPHA


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"
