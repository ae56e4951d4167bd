"""Methods times seeds, the same everything but the plans: a table with its spread and its tests, and the curves behind it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from pipeline.errors import ConfigError
from pipeline.store import Place
from pipeline.tables import read_table, write_table
from trainer.config import RunConfig, with_method
from trainer.run import Run

TrainRun = Callable[[RunConfig], Run]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one finished run came to."""

    method: str
    seed: int
    accuracy: dict[str, Any]  # head -> test accuracy, None where no test sample has the modality
    correct: np.ndarray[Any, np.dtype[np.bool_]]  # (n,) the fused head on each test sample
    seconds: float  # scoring, planning, loading, stepping
    num_steps: int
    epochs: pa.Table


def compare(config: RunConfig, methods: Sequence[str], seeds: Sequence[int], train_run: TrainRun) -> dict[str, Any]:
    """Trains (or takes up) every run, then saves and returns the comparison; `train_run` brings one run to its end."""
    if len(set(methods)) != len(methods) or not methods or not seeds:
        raise ConfigError(f"methods {', '.join(methods) or 'none'} with {len(seeds)} seeds", "name each method once, and at least one seed")
    configs = [with_method(config, method, seed) for seed in seeds for method in methods]
    outcomes = [_outcome(train_run(each), method, seed) for each, (seed, method) in zip(configs, [(s, m) for s in seeds for m in methods], strict=True)]
    result = {"name": config.name, "seeds": list(seeds), "methods": summarise(outcomes, methods), "tests": paired_tests(outcomes, methods)}
    place = Place.at(config.store) / "comparisons" / config.name
    _save(place, result, outcomes)
    return {**result, "place": str(place)}


def _outcome(run: Run, method: str, seed: int) -> Outcome:
    test, epochs, result = read_table(run.place / "test.arrow"), run.epochs(), run.facts["result"]
    seconds = sum(float(np.sum(epochs[f"{stage}_seconds"].to_numpy())) for stage in ("score", "plan", "load", "step"))
    correct = test["predicted_fused"].to_numpy() == test["label"].to_numpy()
    num_steps = int(np.sum(epochs["num_steps"].to_numpy()))
    return Outcome(method=method, seed=seed, accuracy=result["test_accuracy"], correct=correct, seconds=seconds, num_steps=num_steps, epochs=epochs)


def summarise(outcomes: Sequence[Outcome], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Per method: mean and SD (over seeds, n - 1) of the test accuracy of each head, steps, and time relative to joint, or else to the first method."""
    rows = []
    reference = "joint" if "joint" in methods else methods[0]
    base = {outcome.seed: outcome.seconds for outcome in outcomes if outcome.method == reference}
    for method in methods:
        own = [outcome for outcome in outcomes if outcome.method == method]
        heads = {head: [outcome.accuracy[head] for outcome in own] for head, value in own[0].accuracy.items() if value is not None}
        accuracy = {head: {"mean": float(np.mean(values)), "sd": _sd(values), "each": values} for head, values in heads.items()}
        time_ratio = float(np.median([outcome.seconds / base[outcome.seed] for outcome in own]))
        rows.append({"method": method, "accuracy": accuracy, "num_steps": float(np.mean([outcome.num_steps for outcome in own])), "time_ratio": time_ratio})
    return rows


def paired_tests(outcomes: Sequence[Outcome], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Per pair of methods: the difference of fused test accuracy, Student's paired t-test over seeds, and the exact McNemar test over samples for each seed."""
    by = {(outcome.method, outcome.seed): outcome for outcome in outcomes}
    seeds = sorted({outcome.seed for outcome in outcomes})
    tests = []
    for first, second in combinations(methods, 2):
        difference = [float(by[second, seed].accuracy["fused"] - by[first, seed].accuracy["fused"]) for seed in seeds]
        spread = len(seeds) > 1 and float(np.std(difference)) > 0
        p = float(stats.ttest_1samp(difference, 0.0).pvalue) if spread else None
        mcnemar = [mcnemar_p(by[first, seed].correct, by[second, seed].correct) for seed in seeds]
        tests.append({"pair": f"{second} - {first}", "difference": float(np.mean(difference)), "sd": _sd(difference), "paired_t_p": p, "mcnemar_p": mcnemar})
    return tests


def mcnemar_p(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """The exact two-sided McNemar test on two methods' right answers over the same samples."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def _sd(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def markdown(result: Mapping[str, Any]) -> str:
    """The comparison as two Markdown tables, accuracies in percent."""
    heads = list(result["methods"][0]["accuracy"])
    lines = [f"| method ({len(result['seeds'])} seeds) | " + " | ".join(heads) + " | steps | time |", "|---" * (len(heads) + 3) + "|"]
    for row in result["methods"]:
        cells = [_percent(row["accuracy"][head]["mean"], row["accuracy"][head]["sd"]) for head in heads]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + f" | {row['num_steps']:.0f} | {row['time_ratio']:.2f} |")
    lines += ["", "| pair | difference | paired t over seeds, p | McNemar over samples, p of each seed |", "|---|---|---|---|"]
    for test in result["tests"]:
        p = "-" if test["paired_t_p"] is None else f"{test['paired_t_p']:.3f}"
        lines.append(
            f"| {test['pair']} | {_percent(test['difference'], test['sd'], sign='+')} | {p} | {', '.join(f'{value:.3f}' for value in test['mcnemar_p'])} |"
        )
    return "\n".join(lines) + "\n"


def _percent(mean: float, sd: float | None, sign: str = "") -> str:
    return f"{100 * mean:{sign}.2f}" + (f" ± {100 * sd:.2f}" if sd is not None else "")


def _save(place: Place, result: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    curves = pa.concat_tables([_labelled(outcome) for outcome in outcomes]).combine_chunks()
    write_table(place / "curves.arrow", curves)
    (place / "table.json").write_json(result)
    (place / "table.md").write_bytes(markdown(result).encode())
    shares = [name for name in curves.column_names if name.startswith("share_")]
    (place / "accuracy.png").write_bytes(plot(curves, ["validation_accuracy"]))
    (place / "share.png").write_bytes(plot(curves, shares))


def _labelled(outcome: Outcome) -> pa.Table:
    num = len(outcome.epochs)
    return outcome.epochs.append_column("method", pa.array([outcome.method] * num)).append_column("seed", pa.array([outcome.seed] * num))


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
            label = f"{method}: {column.removeprefix('share_')}" if len(columns) > 1 else str(method)
            (line,) = axes.plot(each.index, each["mean"], label=label)
            axes.fill_between(each.index, each["mean"] - each["std"].fillna(0), each["mean"] + each["std"].fillna(0), alpha=0.15, color=line.get_color())
    axes.set_xlabel("epoch")
    axes.set_ylabel(columns[0].replace("_", " ") if len(columns) == 1 else "share of samples")
    if axes.lines:
        figure.legend(loc="outside right upper", fontsize="small")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
