"""A comparison as Markdown: all methods, the paper's tables, tests, unimodal prediction, cost; accuracies in percent."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.comparison.run_result import spread

MANY = 4
"""Methods above which the tests are shown against the reference and random alone."""


def markdown(result: Mapping[str, Any]) -> str:
    """The comparison as Markdown tables."""
    return "\n".join("\n".join(part) + "\n" for part in _parts(result))


def _parts(result: Mapping[str, Any]) -> Iterator[list[str]]:
    methods = result["methods"]
    heads = list(dict.fromkeys(head for row in methods for head in row["accuracy"]))
    rows = [
        [
            row["method"],
            *(_percent(row["accuracy"].get(head)) for head in heads),
            f"{row['num_steps']:.0f}",
            f"{row['time_ratio']:.2f}",
        ]
        for row in methods
    ]
    yield _table([f"method ({len(result['seeds'])} seeds)", *heads, "steps", "time"], rows)
    for name, table in result["tables"].items():
        yield [
            f"{name}:",
            "",
            *_table(
                ["method", "fused", "gain over", "gain"],
                [_gain(method, result) for method in table],
            ),
        ]
    yield _table(
        ["pair", "difference", "paired t over seeds, p", "McNemar over samples, p of each seed"],
        list(_tests(result)),
    )
    modalities = [head for head in heads if head != "fused"]
    masked = (
        [f"{name}, alone in the fused head" for name in modalities]
        if any(row["zero_mask_accuracy"] for row in methods)
        else []
    )
    rows = [
        [
            row["method"],
            *(_percent(row["accuracy"].get(name)) for name in modalities),
            *(_percent(row["zero_mask_accuracy"].get(name)) for name in modalities),
        ]
        for row in methods
    ]
    named = [f"{name}, own head" for name in modalities] + masked
    yield [
        "unimodal prediction:",
        "",
        *_table(["method", *named], [row[: 1 + len(named)] for row in rows]),
    ]
    yield ["cost:", "", *_cost(methods, result["reference"])]


def _gain(method: str, result: Mapping[str, Any]) -> list[str]:
    """A row of one of the paper's tables: the gain of X+remix is over X, of any other method over the reference."""
    by = {each["method"]: each["accuracy"]["fused"] for each in result["methods"]}
    plain = method.split(":")[0]
    base = plain.removesuffix("+remix") if plain.endswith("+remix") else result["reference"]
    own = by[method]
    if base == method or base not in by:
        return [method, _percent(own), "-", "-"]
    return [
        method,
        _percent(own),
        base,
        _percent(spread(list(np.subtract(own["each"], by[base]["each"]))), sign="+"),
    ]


def _tests(result: Mapping[str, Any]) -> Iterator[list[str]]:
    few = len(result["methods"]) <= MANY
    for test in result["tests"]:
        if few or set(test["pair"].split(" - ")) & {result["reference"], "random"}:
            p = "-" if test["paired_t_p"] is None else f"{test['paired_t_p']:.3f}"
            difference = _percent({"mean": test["difference"], "sd": test["sd"]}, sign="+")
            yield [
                test["pair"],
                difference,
                p,
                ", ".join(f"{value:.3f}" for value in test["mcnemar_p"]),
            ]


def _cost(methods: Sequence[Mapping[str, Any]], reference: str) -> list[str]:
    columns = [
        "method",
        "expansion",
        "steps",
        "s an epoch after warm-up",
        f"time / {reference}",
        "GFLOPs",
        f"FLOPs / {reference}",
    ]
    rows = []
    for row in methods:
        cost = row["cost"]
        numbers = [
            f"{row['num_steps']:.0f}",
            f"{cost['epoch_seconds']:.2f}",
            f"{row['time_ratio']:.2f}",
            f"{cost['flops'] / 1e9:.4g}",
        ]
        rows.append(
            [row["method"], f"{cost['expansion']:.2f}", *numbers, f"{cost['flops_ratio']:.2f}"]
        )
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _percent(found: Mapping[str, Any] | None, sign: str = "") -> str:
    if found is None:
        return "-"
    return f"{100 * found['mean']:{sign}.2f}" + (
        f" ± {100 * found['sd']:.2f}" if found["sd"] is not None else ""
    )
