"""Markdown tables of a comparison: accuracies in percent, the paper's tables, tests and cost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.comparison.budget import UNITS
from trainer.comparison.run_result import KINDS
from trainer.comparison.statistics import spread

Table = Mapping[str, Any]


def summary(table: Table) -> str:
    """The table of results, its notes, and the verdict, as Markdown."""
    return _joined(_summary(table))


def markdown(table: Table) -> str:
    """All tables of a comparison as Markdown."""
    return _joined([*_summary(table), *_details(table)])


def _joined(parts: Iterable[Sequence[str]]) -> str:
    return "\n".join("\n".join(part) + "\n" for part in parts)


def _summary(table: Table) -> Iterator[list[str]]:
    heads = _heads(table)
    tuned = list(table["methods"][0]["tuned"])
    columns = [f"method ({len(table['seeds'])} seeds)", *heads, *tuned, "tested epoch"]
    timed = table["budget"] == "epochs"
    rows = [
        [
            row["method"],
            *_percents(row["accuracy"], heads),
            *(str(row["tuned"][path]) for path in tuned),
            _tested_epoch(row["tested_epoch"]),
            f"{row['time_ratio']:.2f}" if timed else f"{row['budget_ratio']['median']:.3f}",
        ]
        for row in table["methods"]
    ]
    spending = "time" if timed else UNITS[table["budget"]]
    yield _table([*columns, f"{spending} / {table['reference']}"], rows)
    majority, num_test = table["majority"], table["num_test"]
    best = max(row["accuracy"]["fused"]["mean"] for row in table["methods"])
    error = 100 * (best * (1 - best) / num_test) ** 0.5
    yield [
        f"Chance: {100 * table['chance']:.2f}. "
        f"Majority class ({majority['name']}): {100 * majority['accuracy']:.2f}. "
        f"Standard error of {100 * best:.1f} on {num_test} test samples: {error:.2f}."
    ]
    for note in table["notes"]:
        yield [note]
    yield [table["verdict"]]


def _details(table: Table) -> Iterator[list[str]]:
    for name, rows in table["tables"].items():
        columns = ["method", *KINDS, "gain over", *(f"gain, {kind}" for kind in KINDS)]
        yield [f"{name}:", "", *_table(columns, [_gain(row, table) for row in rows])]
    columns = ["method", "against", "accuracy", "difference", "95% interval", "p", "p (Holm)"]
    yield ["tests:", "", *_table(columns, [_test(test) for test in table["tests"]])]
    masked = [head for head in _heads(table) if head not in KINDS]
    if any(row["zero_mask_accuracy"] for row in table["methods"]):
        rows = [
            [row["method"], *_percents(row["zero_mask_accuracy"], masked)]
            for row in table["methods"]
        ]
        columns = ["method", *(f"{name} only" for name in masked)]
        yield ["fused head, one modality only:", "", *_table(columns, rows)]
    yield ["cost:", "", *_cost(table)]
    if table["tuning"]:
        yield ["tuning:", "", *_tuning(table["tuning"])]


def _heads(table: Table) -> list[str]:
    """Fused, assembled, and the modalities."""
    return list(dict.fromkeys(head for row in table["methods"] for head in row["accuracy"]))


def _tested_epoch(tested: Mapping[str, Any]) -> str:
    """Median and range over seeds, with a mark if a run's is in the warm-up."""
    mark = " †" if tested["in_warmup"] else ""
    if tested["min"] == tested["max"]:
        return f"{tested['min']}{mark}"
    return f"{tested['median']:g} ({tested['min']} to {tested['max']}){mark}"


def _gain(method: str, table: Table) -> list[str]:
    """A row of one of the paper's tables: X+remix is compared with X, others with the reference."""
    by = {row["method"]: row["accuracy"] for row in table["methods"]}
    plain, own = method.split(":")[0], by[method]
    base = plain.removesuffix("+remix") if plain.endswith("+remix") else table["reference"]
    row = [method, *_percents(own, KINDS)]
    if base == method or base not in by:
        return [*row, "-", "-", "-"]
    gains = {
        kind: spread(list(np.subtract(own[kind]["each"], by[base][kind]["each"])))
        for kind in KINDS
        if kind in own
    }
    return [*row, base, *_percents(gains, KINDS, sign="+")]


def _test(test: Mapping[str, Any]) -> list[str]:
    difference = test["difference"]
    interval = "-" if difference["low"] is None else _interval(difference)
    return [
        test["method"],
        test["against"],
        test["accuracy"],
        _percent(difference, sign="+"),
        interval,
        *("-" if test[key] is None else f"{test[key]:.3f}" for key in ("p", "p_holm")),
    ]


def _interval(value: Mapping[str, Any]) -> str:
    return f"{100 * value['low']:+.2f} to {100 * value['high']:+.2f}"


def _cost(table: Table) -> list[str]:
    columns = [
        "method",
        "expansion",
        "steps",
        "seconds per epoch (after warm-up)",
        f"time / {table['reference']}",
        "GFLOPs",
        f"FLOPs / {table['reference']}",
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
        for row in table["methods"]
    ]
    return _table(columns, rows)


def _tuning(tuning: Table) -> list[str]:
    """The validation metric of every trial; the chosen one is bold."""
    fields = list(tuning["methods"][0]["chosen"])
    seeds = [f"seed {seed}" for seed in tuning["seeds"]]
    rows = []
    for each in tuning["methods"]:
        for trial in each["trials"]:
            numbers = ["-" if x is None else f"{x:.4f}" for x in (trial["mean"], *trial["each"])]
            if trial["values"] == each["chosen"]:
                numbers[0] = f"**{numbers[0]}**"
            rows.append([each["method"], *(str(trial["values"][x]) for x in fields), *numbers])
    return _table(["method", *fields, f"validation {tuning['metric']}", *seeds], rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _percents(by_head: Mapping[str, Any], heads: Sequence[str], sign: str = "") -> list[str]:
    return [_percent(by_head[head], sign) if head in by_head else "-" for head in heads]


def _percent(value: Mapping[str, Any], sign: str = "") -> str:
    sd = "" if value["sd"] is None else f" ± {100 * value['sd']:.2f}"
    return f"{100 * value['mean']:{sign}.2f}{sd}"
