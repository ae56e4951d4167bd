"""Compares all policies on generated data with a known ideal assignment, and on real data.

    python benchmarks/findings.py --budget small    as `make findings`; under 20 minutes on 2 cores
    python benchmarks/findings.py                   5 seeds, as in docs/findings.md
    python benchmarks/findings.py --sets avemo --tables fusion,methods,mid-fusion,ablation,unimodal

Real data is used if REMIX_TEST_DATA contains it. Existing runs are reused. The report is printed
and written to <store>/findings.md.
"""

import argparse
import multiprocessing
import os
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _known import KNOWN, known_set, write_known
from _report import machine

from pipeline.config import load, parse
from pipeline.decode.config import DecodeConfig
from pipeline.errors import InputError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.sources.importers.table import import_table
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.comparison.compare import compare
from trainer.comparison.methods import completed, methods_of, with_method
from trainer.comparison.tables import markdown
from trainer.config import RunConfig, merge
from trainer.launch import launch
from trainer.prepare_features import ensure_features
from trainer.run_directory import Run

IMAGES = {"kind": "cnn", "width": 16, "crop": True, "crop_area": 0.5, "flip": True}
VECTORS = {
    "model": {"encoder": {"kind": "mlp", "hidden": 128}},
    "train": {"epochs": 16, "warmup_epochs": 4},
    "optimizer": {"decay_every": 12},
}
CONFIGS: Mapping[str, dict[str, Any]] = {
    **dict.fromkeys(KNOWN, VECTORS),
    "avemo": {
        "model": {"encoder": IMAGES},
        "train": {"epochs": 16, "warmup_epochs": 4},
        "optimizer": {"decay_every": 12},
    },
    "avwords": {
        "model": {"encoder": IMAGES},
        "train": {"epochs": 12, "warmup_epochs": 4},
        "optimizer": {"decay_every": 9},
    },
}
SMALL: Mapping[str, dict[str, Any]] = {
    **{
        key: {"train": {"epochs": 10, "warmup_epochs": 3}, "optimizer": {"decay_every": 8}}
        for key in KNOWN
    },
    **{
        key: {"train": {"epochs": 8, "warmup_epochs": 3}, "optimizer": {"decay_every": 6}}
        for key in ("avemo", "avwords")
    },
}
AUDIO = {"num_mels": 40, "hop": 512}
DECODE: Mapping[str, dict[str, Any]] = {
    "avemo": {"modalities": {"audio": AUDIO}},
    "avwords": {"modalities": {"audio": {**AUDIO, "hop": 320}, "video": {"frames": 4, "size": 48}}},
}
IMPORT: Mapping[str, dict[str, Any]] = {
    "avemo": {
        "modalities": {"audio": "audio_path", "image": "image_path"},
        "where": {"crema6": "1"},
        "split_by": "speaker",
        "validation_share": 0.2,
    },
    "avwords": {
        "modalities": {"audio": "audio_path", "video": "video_path"},
        "validation_share": 0.15,
    },
}
"""avemo: six classes; the speakers of the validation split are not in the train split.

Audio and video are decoded coarsely, so that 5 seeds of everything take minutes.
"""


def main() -> None:
    """Prepare the data, train, and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", default="store/findings")
    parser.add_argument("--budget", choices=("full", "small"), default="full")
    parser.add_argument(
        "--sets",
        help=f"data sets, separated by commas: {', '.join(CONFIGS)} (default: all available ones)",
    )
    parser.add_argument(
        "--tables",
        help="tables of methods, as for remix compare (default: policies; the default methods for"
        " real data with a small budget)",
    )
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1)))
    arguments = parser.parse_args()
    start, parts = time.monotonic(), []
    small = arguments.budget == "small"
    for name in (
        arguments.sets.split(",")
        if arguments.sets
        else [name for name in CONFIGS if name in KNOWN or _archive(name)]
    ):
        config = prepare(name, arguments.store, small)
        tables = arguments.tables or (None if small and name not in KNOWN else "policies")
        result = run(
            config,
            methods_of(None, tables),
            arguments.seeds or (2 if small else 5),
            arguments.processes,
        )
        parts.append(
            f"## {name}\n\n{markdown(result)}{agreement(config, result) if name in KNOWN else ''}"
        )
    minutes = (time.monotonic() - start) / 60
    text = "\n".join([*parts, f"{minutes:.0f} minutes; {machine()}\n"])
    (StorePath.at(arguments.store) / "findings.md").write_bytes(text.encode())
    print(text)


def _archive(name: str) -> Path | None:
    path = Path(os.environ.get("REMIX_TEST_DATA", "")) / name / "data.tar.gz"
    return path if path.exists() else None


def prepare(name: str, store: str, small: bool) -> RunConfig:
    """Configuration of a run on a data set, whose features are created if missing.

    Raises InputError.
    """
    shards = Path(store) / "shards" / name
    if name not in CONFIGS:
        raise InputError(f"Unknown data set: {name!r}", f"Choose from {', '.join(CONFIGS)}")
    run_config = {
        "name": f"{name}-small" if small else name,
        "features": name,
        "store": store,
        "source": {"shards": [f"shards/{name}"]},
    }
    config = parse(
        RunConfig, merge(merge(CONFIGS[name], SMALL[name] if small else {}), run_config), name
    )
    if not (config.features_path / MANIFEST).exists():
        if not shards.exists() and name in KNOWN:
            write_known(name, shards)
        elif not shards.exists():
            _import(name, shards)
        decode = parse(
            DecodeConfig,
            merge(
                load(DecodeConfig, shards / "decode.yaml").model_dump(mode="json"),
                DECODE.get(name, {}),
            ),
            name,
        )
        ensure_features(
            parse(
                RunConfig,
                merge(
                    config.model_dump(mode="json"),
                    {"source": {"decode": decode.model_dump(mode="json")}},
                ),
                name,
            ),
            lambda event: None,
        )
    return config


def _import(name: str, shards: Path) -> None:
    archive = _archive(name)
    if archive is None:
        raise InputError(
            f"Data set not found in REMIX_TEST_DATA: {name!r}",
            "Set REMIX_TEST_DATA, or choose other sets with --sets",
        )
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        import_table(archive.parent / "manifest.csv", shards, root=Path(folder), **IMPORT[name])


def run(
    config: RunConfig, methods: Sequence[str], num_seeds: int, num_processes: int
) -> dict[str, Any]:
    """Run the comparison. Its runs are trained in parallel processes."""
    seeds = range(num_seeds)
    configs = [
        with_method(config, method, seed).model_dump(mode="json")
        for seed in seeds
        for method in completed(methods)
    ]
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(train, configs))
    return compare(config, methods, seeds, lambda run_config: launch(run_config, resume=True))


def train(config: dict[str, Any]) -> None:
    """Train one run, in a process of the pool."""
    launch(RunConfig.model_validate(config), resume=True)


def agreement(config: RunConfig, result: dict[str, Any]) -> str:
    """Table of the percentage of training samples with the ideal assignment, by method."""
    known, features = known_set(config.features), FeatureSet.open(config.features_path)
    by_id = dict(
        zip((f"known-{i:04d}" for i in range(len(known.labels))), known.ideal.tolist(), strict=True)
    )
    names = list(known.rows)
    ideal = np.array(
        [
            features.modalities.index(names[by_id[sample_id]])
            for sample_id in features.samples["sample_id"].to_pylist()
        ]
    )
    lines = [
        "\n| method | agreement with the ideal assignment, first epoch | last epoch | mean |",
        "|---|---|---|---|",
    ]
    for row in result["methods"]:
        shares = [
            _agreements(with_method(config, row["method"], seed), features.modalities, ideal)
            for seed in result["seeds"]
        ]
        if shares[0]:
            first, last, mean = (
                100 * float(np.mean(values))
                for values in (
                    [epochs[0] for epochs in shares],
                    [epochs[-1] for epochs in shares],
                    np.concatenate(shares),
                )
            )
            lines.append(f"| {row['method']} | {first:.1f} | {last:.1f} | {mean:.1f} |")
    return "\n".join(lines) + "\n"


def _agreements(
    config: RunConfig, modalities: list[str], ideal: np.ndarray[Any, Any]
) -> list[float]:
    agreements, run = [], Run.open(config.run_path)
    for epoch in range(config.train.warmup_epochs, config.train.epochs):
        pure = [
            step for step in BatchPlan.open(run.plan(epoch)).steps() if step.modality in modalities
        ]
        if pure:
            rows = np.concatenate([step.rows for step in pure])
            assignment = np.repeat(
                [modalities.index(step.modality) for step in pure],
                [len(step.rows) for step in pure],
            )
            agreements.append(float((ideal[rows] == assignment).mean()))
    return agreements


if __name__ == "__main__":
    main()
