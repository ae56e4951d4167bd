"""Compares training methods on generated and real data, as in docs/findings.md.

    python benchmarks/findings.py                   all of docs/findings.md
    python benchmarks/findings.py --budget small    as `make findings`; under 20 minutes on 2 cores
    python benchmarks/findings.py --sets slow,avemo --jobs 8

Every method spends as many FLOPs as joint_heads with the same seed. With the budget `full` its
learning rate is chosen by validation, on seeds that the tables do not use. Real data is used if
REMIX_TEST_DATA contains it. Existing features and runs are reused. Prints the tables, and writes
them to <store>/findings.md and every run to <store>/findings.csv.
"""

import argparse
import csv
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _report import machine
from PIL import Image

from pipeline.config import load, parse
from pipeline.decode.config import DecodeConfig
from pipeline.errors import InputError
from pipeline.sources.importers.table import import_table
from pipeline.sources.synthetic.generate import generate
from pipeline.storage.store_path import StorePath
from remix.cli.train import DEMO
from trainer.comparison.compare import compare
from trainer.comparison.parallel import train_at_once
from trainer.comparison.tables import markdown
from trainer.comparison.tuning import tuning_of
from trainer.config import GenerateConfig, RunConfig
from trainer.config_values import merge
from trainer.prepare_features import ensure_features

METHODS = (
    "joint",
    "joint_heads",
    "unimodal",
    "random",
    "remix",
    "alternate",
    "handover",
    "auto",
    "ogm_ge",
    "mla",
    "resample",
)
SMALL_METHODS = ("joint_heads", "unimodal", "random", "remix", "handover", "auto")
"""Of the budget `small`."""
RATES = {"optimizer.lr": [1e-3, 3e-3]}
"""Learning rates to choose from, and their path in the configuration."""
NUM_TUNING_SEEDS = 1
PIXEL_NOISE = 80
"""SD of the noise on the pictures of avdigits, in grey levels; without it, pictures alone have
nearly all digits right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set and the settings of its runs.

    write: writes the shards, given the path of the archive of real data, if there is one;
    decode: changes of its decode.yaml; seeds: number of seeds with the budget `full`.
    """

    write: Callable[[Path, Path], object]
    run: Mapping[str, Any]
    decode: Mapping[str, Any]
    seeds: int
    real: bool = True


def main() -> None:
    """Prepare the data, train, and print the report."""
    arguments = parse_arguments()
    start, store = time.monotonic(), StorePath.at(arguments.store)
    small, texts, rows = arguments.budget == "small", [], []
    methods = SMALL_METHODS if small else METHODS
    for name in arguments.sets.split(",") if arguments.sets else available():
        config = prepare(name, arguments.store, small)
        num_seeds = arguments.seeds or (2 if small else SETS[name].seeds)
        result = compare(
            config,
            arguments.methods.split(",") if arguments.methods else methods,
            range(num_seeds),
            tuning=tuning_of({} if small else RATES, range(num_seeds), NUM_TUNING_SEEDS),
            budget="flops",
            train_ahead=partial(train_at_once, jobs=arguments.jobs),
        )
        texts.append(f"## {name}\n\n{markdown(result)}")
        table = io.StringIO((StorePath.at(result["place"]) / "results.csv").read_bytes().decode())
        rows += [{"set": name, **row} for row in csv.DictReader(table)]
        minutes = (time.monotonic() - start) / 60
        text = "\n".join([*texts, f"{minutes:.0f} minutes; {machine()}\n"])
        (store / "findings.md").write_bytes(text.encode())
        (store / "findings.csv").write_bytes(as_csv(rows).encode())
    print(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", default="store/findings")
    parser.add_argument("--budget", choices=("full", "small"), default="full")
    parser.add_argument(
        "--sets", help=f"data sets, comma-separated: {', '.join(SETS)} (default: all available)"
    )
    parser.add_argument("--methods", help="comma-separated (default: all, or six if small)")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of several comparisons; empty where one lacks a column."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def available() -> list[str]:
    """Names of the generated sets, and of the real ones in REMIX_TEST_DATA."""
    return [name for name, each in SETS.items() if not each.real or archive(name).exists()]


def archive(name: str) -> Path:
    return Path(os.environ.get("REMIX_TEST_DATA", "")) / name / "data.tar.gz"


def prepare(name: str, store: str, small: bool) -> RunConfig:
    """Configuration of the runs on a data set, whose features are created if missing.

    Raises InputError.
    """
    if name not in SETS:
        raise InputError(f"Unknown data set: {name!r}", f"Choose from {', '.join(SETS)}")
    data, shards = SETS[name], Path(store).absolute() / "shards" / name
    if not shards.exists():
        if data.real and not archive(name).exists():
            raise InputError(
                f"Data set not found in REMIX_TEST_DATA: {name!r}",
                "Set REMIX_TEST_DATA, or choose other sets with --sets",
            )
        data.write(archive(name), shards)
    decode = merge(
        load(DecodeConfig, shards / "decode.yaml").model_dump(mode="json"), dict(data.decode)
    )
    fields = {
        "name": f"{name}-small" if small else name,
        "features": name,
        "store": store,
        "source": {"shards": [f"shards/{name}"], "decode": decode},
    }
    changes = {"train": {"epochs": data.run["train"]["epochs"] // 2}} if small else {}
    config = parse(RunConfig, merge(merge(dict(data.run), changes), fields), name)
    ensure_features(config, lambda event: None)
    return config


def generated(profile: str, encoders: Mapping[str, Any]) -> DataSet:
    """A profile of `remix generate`, with the settings of the demo."""
    return DataSet(
        write=lambda _, shards: generate(
            shards, **parse(GenerateConfig, {"profile": profile}, profile).model_dump()
        ),
        run=merge(DEMO, {"model": {"encoders": encoders}}),
        decode={},
        seeds=5,
        real=False,
    )


def imported(noise: float = 0.0, **options: Any) -> Callable[[Path, Path], object]:
    """Imports an archive with its manifest; `noise` is the SD of noise on its PNG files."""

    def write(data: Path, shards: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(data) as tar:
                tar.extractall(folder, filter="data")
            if noise:
                add_noise(Path(folder), noise)
            import_table(data.parent / "manifest.csv", shards, root=Path(folder), **options)

    return write


def add_noise(folder: Path, sd: float) -> None:
    """Add noise to all PNG files."""
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"), np.float64)
        noise = np.random.default_rng([0, number]).normal(0, sd, pixels.shape)
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path)


# mla needs features of equal length
MLP_CNN = {"audio": {"kind": "mlp", "hidden": 64}, "video": {"kind": "cnn", "width": 8}}
CNNS = {"audio": {"kind": "cnn", "width": 8}, "video": {"kind": "cnn", "width": 8}}
CNN = {"kind": "cnn", "width": 8, "crop": True, "crop_area": 0.5, "flip": True}
SETS: Mapping[str, DataSet] = {
    "slow": generated("slow", MLP_CNN),
    "crossed": generated("crossed", CNNS),
    "hollow": generated("hollow", CNNS),
    "leaky": generated("leaky", CNNS),
    "plain": generated("plain", CNNS),
    "avemo": DataSet(
        write=imported(
            modalities={"audio": "audio_path", "image": "image_path"},
            where={"crema6": "1"},
            split_by="speaker",
            validation_share=0.2,
        ),
        run={
            "model": {"encoder": CNN},
            "optimizer": {"decay": 1.0},
            "train": {"epochs": 24, "warmup_epochs": 4},
        },
        decode={"modalities": {"audio": {"num_mels": 40, "hop": 512}}},
        seeds=5,
    ),
    "avdigits": DataSet(
        write=imported(
            noise=PIXEL_NOISE,
            modalities={"audio": "audio_path", "image": "image_path"},
            split_by="speaker",
            validation_share=0.25,
        ),
        run={
            "model": {"encoder": {"kind": "cnn", "width": 8}},
            "optimizer": {"decay": 1.0},
            "train": {"epochs": 12, "warmup_epochs": 2},
        },
        decode={"modalities": {"audio": {"num_mels": 40, "hop": 256}, "image": {"size": 28}}},
        seeds=5,
    ),
    "avwords": DataSet(
        write=imported(
            modalities={"audio": "audio_path", "video": "video_path"}, validation_share=0.15
        ),
        run={
            "model": {"encoder": CNN},
            "optimizer": {"decay": 1.0},
            "train": {"epochs": 50, "warmup_epochs": 8},
        },
        decode={
            "modalities": {
                "audio": {"num_mels": 40, "hop": 320},
                "video": {"frames": 2, "size": 32},
            }
        },
        seeds=5,
    ),
}
"""avemo: six classes. No speaker of avemo or avdigits is in two splits.

Audio and video are decoded coarsely, so that a run takes seconds.
"""


if __name__ == "__main__":
    main()
