"""Markdown tables of a comparison: accuracies in percent, the paper's tables, tests and cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.comparison.run_result import spread

MANY = 4
"""With more methods, only tests against the reference and against random are shown."""


def markdown(result: Mapping[str, Any]) -> str:
    """The comparison as Markdown tables."""
    return "\n".join("\n".join(part) + "\n" for part in _parts(result))


def _parts(result: Mapping[str, Any]) -> Iterator[list[str]]:
    methods = result["methods"]
    heads = list(dict.fromkeys(head for row in methods for head in row["accuracy"]))
    rows = [
        [
            row["method"],
            *_percents(row["accuracy"], heads),
            f"{row['num_steps']:.0f}",
            f"{row['time_ratio']:.2f}",
        ]
        for row in methods
    ]
    yield _table([f"method ({len(result['seeds'])} seeds)", *heads, "steps", "time"], rows)
    for name, table in result["tables"].items():
        rows = [_gain(method, result) for method in table]
        yield [f"{name}:", "", *_table(["method", "fused", "gain over", "gain"], rows)]
    yield _table(
        ["pair", "difference", "p (t-test over seeds)", "p (McNemar test), per seed"],
        list(_tests(result)),
    )
    modalities = [head for head in heads if head != "fused"]
    masked = modalities if any(row["zero_mask_accuracy"] for row in methods) else []
    columns = [f"{name}, unimodal head" for name in modalities]
    columns += [f"{name} only, fused head" for name in masked]
    rows = [
        [
            row["method"],
            *_percents(row["accuracy"], modalities),
            *_percents(row["zero_mask_accuracy"], masked),
        ]
        for row in methods
    ]
    yield ["unimodal prediction:", "", *_table(["method", *columns], rows)]
    yield ["cost:", "", *_cost(methods, result["reference"])]


def _gain(method: str, result: Mapping[str, Any]) -> list[str]:
    """A row of one of the paper's tables: X+remix is compared with X, others with the reference."""
    fused = {row["method"]: row["accuracy"]["fused"] for row in result["methods"]}
    plain = method.split(":")[0]
    base = plain.removesuffix("+remix") if plain.endswith("+remix") else result["reference"]
    own = fused[method]
    if base == method or base not in fused:
        return [method, _percent(own), "-", "-"]
    gain = spread(list(np.subtract(own["each"], fused[base]["each"])))
    return [method, _percent(own), base, _percent(gain, sign="+")]


def _tests(result: Mapping[str, Any]) -> Iterator[list[str]]:
    few = len(result["methods"]) <= MANY
    for test in result["tests"]:
        if few or set(test["pair"].split(" - ")) & {result["reference"], "random"}:
            difference = {"mean": test["difference"], "sd": test["sd"]}
            yield [
                test["pair"],
                _percent(difference, sign="+"),
                "-" if test["paired_t_p"] is None else f"{test['paired_t_p']:.3f}",
                ", ".join(f"{value:.3f}" for value in test["mcnemar_p"]),
            ]


def _cost(methods: Sequence[Mapping[str, Any]], reference: str) -> list[str]:
    columns = [
        "method",
        "expansion",
        "steps",
        "seconds per epoch (after warm-up)",
        f"time / {reference}",
        "GFLOPs",
        f"FLOPs / {reference}",
    ]
    rows = [
        [
            row["method"],
            f"{row['cost']['expansion']:.2f}",
            f"{row['num_steps']:.0f}",
            f"{row['cost']['epoch_seconds']:.2f}",
            f"{row['time_ratio']:.2f}",
            f"{row['cost']['flops'] / 1e9:.4g}",
            f"{row['cost']['flops_ratio']:.2f}",
        ]
        for row in methods
    ]
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _percents(by_head: Mapping[str, Any], heads: Sequence[str]) -> list[str]:
    return [_percent(by_head[head]) if head in by_head else "-" for head in heads]


def _percent(value: Mapping[str, Any], sign: str = "") -> str:
    sd = "" if value["sd"] is None else f" ± {100 * value['sd']:.2f}"
    return f"{100 * value['mean']:{sign}.2f}{sd}"
