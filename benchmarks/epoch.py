"""Time of a remix epoch, including scoring and planning, relative to a joint epoch.

    python benchmarks/epoch.py [--device cuda] [--rows 256] [--pixels 112] [--repeats 3]
                               [--amp bf16] [--rescore-share 0.333]

Needs only torch, torchvision, numpy and pyarrow. Trains a ResNet-18 per modality with the preset
`paper` and batch size 64; a sample has two frames of 3x112x112 pixels (uint8) and a 128x128
spectrogram (float16). A pair consists of a joint and a remix epoch, in alternating order. `ratio`
is the median over pairs of the ratio of wall times. `processor_ratios` are the same for processor
time: if they differ from `ratios`, the machine was busy and the measurement is not reliable.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from _plain_config import STAND_INS
from _report import report

from pipeline.config import parse
from pipeline.features.feature_set import FeatureSet
from pipeline.features.part_writer import BATCH_ROWS, PartWriter, part_name
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import fingerprint_of
from pipeline.storage.schemas import samples_schema
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.config import RunConfig
from trainer.config_values import merge
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import PlanLoader
from trainer.epoch_plan import epoch_plan
from trainer.models.checkpoint import architecture
from trainer.models.model import build_model
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.schedule import Phase
from trainer.scoring.predictor import Predictor
from trainer.strategies.base import TrainStep, build_optimizer

NUM_CLASSES = 6
WHAT = {
    "above": "seconds of a remix epoch: score, plan, train",
    "below": "seconds of a joint epoch: plan, train",
    "goal": 0.9,
}


def write_features(path: StorePath, num_rows: int, pixels: int) -> FeatureSet:
    """Write noisy class prototypes; which modality is more difficult depends on the row."""
    shapes = {"video": ((2, 3, pixels, pixels), "uint8"), "audio": ((1, 128, 128), "float16")}
    rng = np.random.default_rng(0)
    labels = rng.integers(NUM_CLASSES, size=num_rows).astype(np.int32)
    tables = {}
    for name, (shape, dtype) in shapes.items():
        patterns, strength = rng.normal(size=(NUM_CLASSES, *shape)), rng.random(num_rows)
        with (path / name / part_name(0)).create() as file:
            writer = PartWriter(file, shape, dtype)
            for label, amount in zip(labels, strength, strict=True):
                values = 128 + 32 * (amount * patterns[label] + rng.normal(size=shape))
                writer.append(np.clip(values, 0, 255).astype(dtype))
            writer.close()
        channels = shape[-3]
        tables[name] = {
            "kind": "tensor",
            "shape": list(shape),
            "dtype": dtype,
            "num_rows": num_rows,
            "mean": [128.0] * channels,
            "std": [37.0] * channels,
        }
    columns = [
        range(num_rows),
        [f"{i:08d}" for i in range(num_rows)],
        labels,
        ["train"] * num_rows,
        [""] * num_rows,
        range(num_rows),
    ]
    columns += [np.ones(num_rows, bool)] * len(shapes)
    schema = samples_schema(list(shapes))
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    write_table(path / "samples.arrow", pa.table(arrays, schema=schema))
    manifest = {
        "modalities": tables,
        "classes": [str(c) for c in range(NUM_CLASSES)],
        "splits": {"train": num_rows},
        "num_rows": num_rows,
    }
    manifest |= {"batch_rows": BATCH_ROWS}
    (path / MANIFEST).write_json(
        {
            **manifest,
            "parts": [{"index": 0, "rows": num_rows}],
            "fingerprint": fingerprint_of(manifest),
        }
    )
    return FeatureSet.open(path)


class Epochs:
    """Trains one model, each epoch joint or remixed."""

    def __init__(self, config: RunConfig, features: FeatureSet, device: torch.device) -> None:
        self.config, self.features, self.world = config, features, World(device=device)
        shapes = {name: features.shape(name) for name in features.modalities}
        self.model = build_model(config.model, shapes, NUM_CLASSES, config.seed).to(device)
        inputs = Inputs(architecture(config.model, features), config.seed, device)
        if device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        self.step = TrainStep(
            self.model,
            inputs,
            build_optimizer(config.optimizer, self.model),
            config,
            self.world,
        )
        self.predictor = Predictor(
            self.model, inputs, features, device, amp=config.train.amp == "bf16"
        )
        self.numbers = {"joint": 0, "remix": 0}

    def run(self, method: str) -> dict[str, float]:
        """Train an epoch; return its seconds by stage and the share of rows of each modality."""
        epoch = self.numbers[method]
        self.numbers[method] += 1
        changes = {"name": method, "train": {"warmup_epochs": 0}}
        config = parse(RunConfig, merge(self.config.model_dump(), changes), method)
        # other artifacts refer to the digest
        (config.run_path / "run.json").write_json({"digest": ""})
        phase = Phase(kind="joint" if method == "joint" else "remix")
        self.synchronize()
        start, busy = time.perf_counter(), time.process_time()
        plan, times = epoch_plan(
            config,
            self.features,
            Run(config.run_path),
            self.world,
            self.predictor,
            epoch,
            phase,
            share=1.0,
        )
        training = time.perf_counter()
        self.model.train()
        rows = dict.fromkeys(self.features.modalities, 0)
        for batch in PlanLoader(
            self.features,
            plan,
            start=0,
            world=self.world,
            skip_masked=True,
            prefetch=config.resources.prefetch,
        ):
            self.step(batch, epoch)
            rows |= {name: rows[name] + len(batch.rows) for name in batch.inputs}
        self.synchronize()
        ended = time.perf_counter()
        shares = {f"{name}_share": num / self.features.num_rows for name, num in rows.items()}
        busy = time.process_time() - busy
        return {
            **times,
            "train_seconds": ended - training,
            "epoch_seconds": ended - start,
            "processor_seconds": busy,
            **shares,
        }

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    cuda = parser.parse_known_args()[0].device == "cuda"
    parser.add_argument("--rows", type=int, default=8192 if cuda else 256)
    parser.add_argument("--pixels", type=int, default=112, help="height and width of a frame")
    parser.add_argument("--repeats", type=int, default=5 if cuda else 3)
    parser.add_argument("--amp", choices=("off", "bf16"), default="bf16" if cuda else "off")
    parser.add_argument(
        "--shares",
        choices=("natural", "equal"),
        default="natural",
        help="equal: assign half of the rows to each modality",
    )
    parser.add_argument(
        "--rescore-share", type=float, default=1.0, help="share of the rows that an epoch scores"
    )
    parser.add_argument("--score-batch", type=int, default=256 if cuda else 64)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        train = {"batch_size": 64, "amp": arguments.amp, "score_batch": arguments.score_batch}
        train["rescore_share"] = arguments.rescore_share
        config = parse(
            RunConfig,
            {
                "name": "epoch",
                "features": "synthetic",
                "store": folder,
                "preset": "paper",
                "train": train,
                "plan": {"shares": arguments.shares},
            },
            "benchmark",
        )
        path = StorePath.at(Path(folder) / "features" / "synthetic")
        epochs = Epochs(config, write_features(path, arguments.rows, arguments.pixels), device)
        # warm up allocations, kernel selection and page cache
        epochs.run("joint")
        epochs.run("remix")
        pairs = [
            {method: epochs.run(method) for method in order(i)} for i in range(arguments.repeats)
        ]
    ratios, processor = (
        [pair["remix"][key] / pair["joint"][key] for pair in pairs]
        for key in ("epoch_seconds", "processor_seconds")
    )
    sides = {
        method: {
            key: round(statistics.median(pair[method][key] for pair in pairs), 4)
            for key in pairs[0][method]
        }
        for method in ("joint", "remix")
    }
    settings = {
        "rows": arguments.rows,
        "pixels": arguments.pixels,
        "shares": arguments.shares,
        "rescore_share": arguments.rescore_share,
        "batch": 64,
        "amp": arguments.amp,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "stand_ins": STAND_INS,
    }
    report(
        "epoch",
        statistics.median(ratios),
        **WHAT,
        **sides,
        ratios=rounded(ratios),
        processor_ratios=rounded(processor),
        **settings,
    )


def rounded(values: list[float]) -> list[float]:
    """Round values for the report."""
    return [round(value, 4) for value in values]


def order(i: int) -> tuple[str, str]:
    """Alternate the first epoch of a pair, so that drift of the machine affects both alike."""
    return ("joint", "remix") if i % 2 == 0 else ("remix", "joint")


if __name__ == "__main__":
    main()
