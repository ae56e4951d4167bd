"""Compare methods over seeds with otherwise identical settings: tables, tests and curves."""

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
from trainer.comparison.markdown import markdown
from trainer.comparison.methods import TABLES, with_method
from trainer.comparison.run_result import RunResult, paired_tests, run_result_of, spread
from trainer.config import RunConfig
from trainer.cost import Meter
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
    """Train every run, reusing or resuming existing ones, then save and return the comparison.

    Args:
        config: Settings that all runs share.
        methods: Names as for with_method.
        seeds: One run per method and seed.
        train_run: Trains one run to its end.
    Returns:
        The content of table.json, and `place`, the folder of the comparison.
    Raises:
        InputError: a setting does not fit; before any training, if the features exist.
    """
    if len(set(methods)) != len(methods) or not methods or not seeds:
        raise ConfigError(
            f"methods are {', '.join(methods) or 'none'} with {len(seeds)} seeds",
            "name each method once, and at least one seed",
        )
    configs = {
        (seed, method): with_method(config, method, seed) for seed in seeds for method in methods
    }
    if (config.features_path / MANIFEST).exists():
        features = FeatureSet.open(config.features_path)
        for method in methods:
            check(configs[seeds[0], method], features)
    runs = {key: train_run(run_config) for key, run_config in configs.items()}
    features = FeatureSet.open(config.features_path)
    meters = {method: Meter(configs[seeds[0], method], features) for method in methods}
    since = config.train.warmup_epochs
    results = [
        run_result_of(runs[key], run_config, key[1], meters[key[1]], since)
        for key, run_config in configs.items()
    ]
    reference = "joint_heads" if "joint_heads" in methods else methods[0]
    comparison: dict[str, Any] = {
        "name": config.name,
        "seeds": list(seeds),
        "reference": reference,
        "methods": summarise(results, methods, reference),
        "tables": tables_of(methods),
        "tests": paired_tests(results, methods),
    }
    path = StorePath.at(config.store) / "comparisons" / config.name
    _save(path, comparison, results)
    return {**comparison, "place": str(path)}


def tables_of(methods: Sequence[str]) -> dict[str, list[str]]:
    """The tables to show and their rows, the methods that were trained.

    A table with fewer than two rows, or whose rows all appear in another table, is left out.
    """
    trained_rows = {
        name: [method for method in table if method in methods] for name, table in TABLES.items()
    }
    shown: dict[str, list[str]] = {}
    for name, rows in trained_rows.items():
        larger = any(set(rows) < set(other) for other in trained_rows.values())
        if len(rows) > 1 and not larger and set(rows) not in map(set, shown.values()):
            shown[name] = rows
    return shown


def summarise(
    results: Sequence[RunResult], methods: Sequence[str], reference: str
) -> list[dict[str, Any]]:
    """Summarise each method over seeds: test accuracies and cost, also relative to the reference.

    Ratios are medians over seeds, each against the reference's run of the same seed.
    """
    rows = []
    base = {result.seed: result.cost for result in results if result.method == reference}
    for method in methods:
        own = [result for result in results if result.method == method]
        costs = [result.cost for result in own]
        mean = {key: float(np.mean([cost[key] for cost in costs])) for key in costs[0]}
        ratio = {
            key: float(np.median([result.cost[key] / base[result.seed][key] for result in own]))
            for key in ("seconds", "flops")
        }
        rows.append(
            {
                "method": method,
                "accuracy": _spreads([result.accuracy for result in own]),
                "zero_mask_accuracy": _spreads([result.zero_mask for result in own]),
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


def _spreads(accuracies: Sequence[dict[str, float | None]]) -> dict[str, dict[str, Any]]:
    """The spread over seeds of each head's accuracy, without heads that a seed has none for."""
    by_head = {
        head: [value for by in accuracies if (value := by[head]) is not None]
        for head in accuracies[0]
    }
    return {
        head: spread(values) for head, values in by_head.items() if len(values) == len(accuracies)
    }


def _save(path: StorePath, comparison: dict[str, Any], results: Sequence[RunResult]) -> None:
    labelled = [
        result.epochs.append_column(
            "method", pa.repeat(result.method, len(result.epochs))
        ).append_column("seed", pa.repeat(result.seed, len(result.epochs)))
        for result in results
    ]
    curves = pa.concat_tables(labelled).combine_chunks()
    write_table(path / "curves.arrow", curves)
    (path / "table.json").write_json(comparison)
    (path / "table.md").write_bytes(markdown(comparison).encode())
    shares = [name for name in curves.column_names if name.startswith("share_")]
    (path / "accuracy.png").write_bytes(plot(curves, ["validation_accuracy"]))
    (path / "share.png").write_bytes(plot(curves, shares))


def plot(curves: pa.Table, columns: Sequence[str]) -> bytes:
    """Plot columns over epochs as a PNG: mean over seeds and a band of one standard deviation.

    There is one line per method and column.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for method, own in curves.to_pandas().groupby("method", sort=False):
        for column in columns:
            by_epoch = own.groupby("epoch")[column].agg(["mean", "std"]).dropna(subset="mean")
            if by_epoch.empty:
                continue
            mean, sd = by_epoch["mean"], by_epoch["std"].fillna(0)
            name = f"{method}: {column.removeprefix('share_')}" if len(columns) > 1 else method
            (line,) = axes.plot(by_epoch.index, mean, label=name)
            axes.fill_between(
                by_epoch.index, mean - sd, mean + sd, alpha=0.15, color=line.get_color()
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel(columns[0].replace("_", " ") if len(columns) == 1 else "share of samples")
    if axes.lines:
        figure.legend(loc="outside right upper", fontsize="small")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
