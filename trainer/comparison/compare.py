"""Compare methods over seeds with otherwise identical settings: tables, tests and curves."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.comparison.files import save
from trainer.comparison.methods import completed, reference_of, with_method
from trainer.comparison.run_result import run_result_of
from trainer.comparison.statistics import paired_tests
from trainer.comparison.summary import baselines, summarise, tables_of
from trainer.comparison.verdict import verdict
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
        methods: Names as for with_method; the ensemble of unimodal models is added.
        seeds: One run per method and seed.
        train_run: Trains one run to its end.
    Returns:
        The content of table.json, and `place`, the folder of the comparison.
    Raises:
        InputError: a setting does not fit; before any training, if the features exist.
    """
    if not seeds:
        raise ConfigError("the number of seeds is 0", "use at least one seed")
    methods = completed(methods)
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
    results = [
        run_result_of(runs[key], run_config, key[1], meters[key[1]])
        for key, run_config in configs.items()
    ]
    reference = reference_of(methods)
    table: dict[str, Any] = {
        "name": config.name,
        "seeds": list(seeds),
        "reference": reference,
        **baselines(features),
        "methods": summarise(results, methods, reference),
        "tables": tables_of(methods),
        "tests": paired_tests(results, methods, reference),
    }
    table["verdict"] = verdict(table)
    path = StorePath.at(config.store) / "comparisons" / config.name
    save(path, table, results)
    return {**table, "place": str(path)}
