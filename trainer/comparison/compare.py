"""Methods times seeds, the same everything but the method: tables with their spread and their tests, and the curves behind them."""

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.arrow_files import write_table
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.comparison.cost import Meter
from trainer.comparison.markdown import markdown
from trainer.comparison.methods import TABLES, with_method
from trainer.comparison.run_result import RunResult, paired_tests, run_result_of, spread
from trainer.config import RunConfig
from trainer.launch import check, launch
from trainer.run_directory import Run

TrainRun = Callable[[RunConfig], Run]
RESUME: TrainRun = partial(launch, resume=True)


def compare(
    config: RunConfig,
    methods: Sequence[str],
    seeds: Sequence[int],
    train_run: TrainRun = RESUME,
) -> dict[str, Any]:
    """Trains (or takes up) every run, then saves and returns the comparison; `train_run` brings one run to its end.

    Raises InputError, before anything is trained where the features are there.
    """
    if len(set(methods)) != len(methods) or not methods or not seeds:
        raise ConfigError(
            f"methods {', '.join(methods) or 'none'} with {len(seeds)} seeds",
            "name each method once, and at least one seed",
        )
    configs = {
        (seed, method): with_method(config, method, seed) for seed in seeds for method in methods
    }
    if (config.features_path / MANIFEST).exists():
        features = FeatureSet.open(config.features_path)
        for method in methods:
            check(configs[seeds[0], method], features)
    runs = {key: train_run(each) for key, each in configs.items()}
    features = FeatureSet.open(config.features_path)
    meters = {method: Meter(configs[seeds[0], method], features) for method in methods}
    since = config.train.warmup_epochs
    outcomes = [
        run_result_of(runs[key], each, key[1], meters[key[1]], since)
        for key, each in configs.items()
    ]
    reference = "joint_heads" if "joint_heads" in methods else methods[0]
    result: dict[str, Any] = {
        "name": config.name,
        "seeds": list(seeds),
        "reference": reference,
        "methods": summarise(outcomes, methods, reference),
        "tables": tables_of(methods),
        "tests": paired_tests(outcomes, methods),
    }
    path = StorePath.at(config.store) / "comparisons" / config.name
    _save(path, result, outcomes)
    return {**result, "place": str(path)}


def tables_of(methods: Sequence[str]) -> dict[str, list[str]]:
    """The tables of which two rows or more were trained, and those rows, without tables whose rows all stand in another."""
    found = {
        name: [method for method in table if method in methods] for name, table in TABLES.items()
    }
    shown: dict[str, list[str]] = {}
    for name, rows in found.items():
        larger = any(set(rows) < set(other) for other in found.values())
        if len(rows) > 1 and not larger and set(rows) not in map(set, shown.values()):
            shown[name] = rows
    return shown


def summarise(
    outcomes: Sequence[RunResult], methods: Sequence[str], reference: str
) -> list[dict[str, Any]]:
    """Per method, over seeds: test accuracy of each trained head, of the fused head with one modality alone, and cost, also relative to the reference."""
    rows = []
    base = {outcome.seed: outcome.cost for outcome in outcomes if outcome.method == reference}
    for method in methods:
        own = [outcome for outcome in outcomes if outcome.method == method]
        costs = [outcome.cost for outcome in own]
        mean = {key: float(np.mean([cost[key] for cost in costs])) for key in costs[0]}
        ratio = {
            key: float(np.median([outcome.cost[key] / base[outcome.seed][key] for outcome in own]))
            for key in ("seconds", "flops")
        }
        rows.append(
            {
                "method": method,
                "accuracy": _spreads([outcome.accuracy for outcome in own]),
                "zero_mask_accuracy": _spreads([outcome.zero_mask for outcome in own]),
                "num_steps": mean["num_steps"],
                "time_ratio": ratio["seconds"],
                "cost": {
                    "expansion": mean["expansion"],
                    "epoch_seconds": mean["epoch_seconds"],
                    "flops": mean["flops"],
                    "flops_ratio": ratio["flops"],
                },
            }
        )
    return rows


def _spreads(each: Sequence[dict[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Of each head the spread over seeds, unless a seed has no accuracy of it."""
    found = {head: [value for a in each if (value := a[head]) is not None] for head in each[0]}
    return {head: spread(values) for head, values in found.items() if len(values) == len(each)}


def _save(path: StorePath, result: dict[str, Any], outcomes: Sequence[RunResult]) -> None:
    labelled = [
        each.epochs.append_column("method", pa.repeat(each.method, len(each.epochs))).append_column(
            "seed", pa.repeat(each.seed, len(each.epochs))
        )
        for each in outcomes
    ]
    curves = pa.concat_tables(labelled).combine_chunks()
    write_table(path / "curves.arrow", curves)
    (path / "table.json").write_json(result)
    (path / "table.md").write_bytes(markdown(result).encode())
    shares = [name for name in curves.column_names if name.startswith("share_")]
    (path / "accuracy.png").write_bytes(plot(curves, ["validation_accuracy"]))
    (path / "share.png").write_bytes(plot(curves, shares))


def plot(curves: pa.Table, columns: Sequence[str]) -> bytes:
    """A PNG of the columns over epochs: one line a method and column, the mean over seeds, a band of one SD."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for method, own in curves.to_pandas().groupby("method", sort=False):
        for column in columns:
            each = own.groupby("epoch")[column].agg(["mean", "std"]).dropna(subset="mean")
            if each.empty:
                continue
            mean, sd = each["mean"], each["std"].fillna(0)
            name = f"{method}: {column.removeprefix('share_')}" if len(columns) > 1 else method
            (line,) = axes.plot(each.index, mean, label=name)
            axes.fill_between(each.index, mean - sd, mean + sd, alpha=0.15, color=line.get_color())
    axes.set_xlabel("epoch")
    axes.set_ylabel(columns[0].replace("_", " ") if len(columns) == 1 else "share of samples")
    if axes.lines:
        figure.legend(loc="outside right upper", fontsize="small")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
