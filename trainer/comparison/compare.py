"""Compare methods over seeds with otherwise identical settings: tables, tests and curves."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.comparison.budget import BudgetKind, within_budget
from trainer.comparison.files import save
from trainer.comparison.methods import completed, reference_of, with_method
from trainer.comparison.run_result import RunResult, run_result_of
from trainer.comparison.statistics import paired_tests
from trainer.comparison.summary import baselines, summarise, tables_of
from trainer.comparison.tuning import Tuning, Values, tune, with_values
from trainer.comparison.verdict import headline, notes, verdict
from trainer.config import RunConfig
from trainer.cost import Meter
from trainer.launch import check, launch
from trainer.run_directory import Run

TrainRun = Callable[[RunConfig], Run]
TrainAhead = Callable[[Sequence[RunConfig]], None]
RESUME: TrainRun = partial(launch, resume=True)


def compare(
    config: RunConfig,
    methods: Sequence[str],
    seeds: Sequence[int],
    train_run: TrainRun = RESUME,
    tuning: Tuning | None = None,
    budget: BudgetKind = "epochs",
    train_ahead: TrainAhead = lambda configs: None,
) -> dict[str, Any]:
    """Train every run, reusing or resuming existing ones, then save and return the comparison.

    Args:
        config: Settings that all runs share.
        methods: Names as for with_method; the ensemble of unimodal models is added.
        seeds: One run per method and seed.
        train_run: Trains one run to its end.
        tuning: Settings to choose for each method, on other seeds; they do not change otherwise.
        budget: What every run may spend: its epochs, or the FLOPs or seconds of the reference's run
            with the same seed. Tuning runs always have their epochs.
        train_ahead: May train runs at the same time, before `train_run` is called for each.
    Returns:
        The content of table.json, and `place`, the folder of the comparison.
    Raises:
        InputError: a setting does not fit; before any training, if the features exist.
    """
    methods = completed(methods)
    _check(config, methods, seeds, tuning)
    if tuning:
        train_ahead([trial for method in methods for trial in tuning.trials(config, method)])
    tuned = {method: tune(config, method, tuning, train_run) for method in methods if tuning}
    chosen: dict[str, Values] = {method: each["chosen"] for method, each in tuned.items()}
    results = _train(config, methods, seeds, chosen, budget, train_run, train_ahead)
    reference = reference_of(methods)
    table: dict[str, Any] = {
        "name": config.name,
        "seeds": list(seeds),
        "reference": reference,
        "budget": budget,
        **baselines(FeatureSet.open(config.features_path)),
        "methods": summarise(results, methods, reference, budget),
        "tables": tables_of(methods),
        "tests": paired_tests(results, methods, reference),
        "tuning": {
            "metric": config.train.select.metric,
            "seeds": list(tuning.seeds),
            "methods": [{"method": method, **each} for method, each in tuned.items()],
        }
        if tuning
        else None,
    }
    table |= {
        "headline": headline(table),
        "verdict": verdict(table),
        "notes": notes(table),
    }
    path = StorePath.at(config.store) / "comparisons" / config.name
    save(path, table, results)
    return {**table, "place": str(path)}


def _train(
    config: RunConfig,
    methods: Sequence[str],
    seeds: Sequence[int],
    chosen: Mapping[str, Values],
    budget: BudgetKind,
    train_run: TrainRun,
    train_ahead: TrainAhead,
) -> list[RunResult]:
    """Train all runs, those of the reference first, and read their results."""
    reference, meters = reference_of(methods), dict[str, Meter]()
    results: dict[tuple[int, str], RunResult] = {}
    for group in ([reference], [method for method in methods if method != reference]):
        configs = {}
        for seed, method in product(seeds, group):
            values = chosen.get(method, {})
            run_config = with_values(with_method(config, method, seed), values)
            if method != reference:
                run_config = within_budget(run_config, budget, results[seed, reference])
            configs[seed, method] = run_config
        train_ahead([*configs.values()])
        for (seed, method), run_config in configs.items():
            run = train_run(run_config)
            known = run.metadata.get("comparisons", [])
            if config.name not in known:
                run.update(comparisons=sorted([*known, config.name]))
            if method not in meters:
                meters[method] = Meter(run_config, FeatureSet.open(config.features_path))
            results[seed, method] = run_result_of(
                run, run_config, method, meters[method], chosen.get(method, {})
            )
    return [results[seed, method] for seed in seeds for method in methods]


def _check(
    config: RunConfig, methods: Sequence[str], seeds: Sequence[int], tuning: Tuning | None
) -> None:
    """Check the configurations of all methods, and that they fit the features if these exist.

    Raises InputError.
    """
    if not seeds:
        raise ConfigError("the number of seeds is 0", "use at least one seed")
    configs = [
        each
        for method in methods
        for each in (
            [tuning.trial(config, method, k, tuning.seeds[0]) for k in range(len(tuning.grid))]
            if tuning
            else [with_method(config, method, seeds[0])]
        )
    ]
    if (config.features_path / MANIFEST).exists():
        features = FeatureSet.open(config.features_path)
        for each in configs:
            check(each, features)
