"""Loading throughput in plan order, relative to memcpy; also of webdataset and litData.

    pip install -e ".[bench]" -c constraints.txt
    python benchmarks/load.py [--rows 20000] [--repeats 5]

A sample has 52 KB: 8 frames of 3x46x46 and a spectrogram of 1x64x10. The page cache is warm. Every
loader returns batches of 64 as arrays. A plan reads memory-mapped features at random; webdataset
reads its shards sequentially with a shuffle buffer of 1,000.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset
from _report import report

from pipeline.features.feature_set import FeatureSet
from pipeline.features.part_writer import PartWriter, part_name
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, joint_plan_builder
from pipeline.storage.store_path import StorePath
from trainer.data.plan_loader import PlanLoader
from trainer.process_group import World

SHAPES = {"video": ((8, 3, 46, 46), "uint8"), "audio": ((1, 64, 10), "float16")}
BATCH = 64


def sample(row: int) -> dict[str, np.ndarray]:
    """The arrays of one sample."""
    rng = np.random.default_rng(row)
    return {
        name: rng.integers(0, 255, shape, np.uint8).astype(dtype)
        for name, (shape, dtype) in SHAPES.items()
    }


def write_tables(path: StorePath, num_rows: int, parts: int = 8) -> FeatureSet:
    """Write the samples as a feature set."""
    cuts = [num_rows * i // parts for i in range(parts + 1)]
    for name, (shape, dtype) in SHAPES.items():
        for part in range(parts):
            with (path / name / part_name(part)).create() as file:
                writer = PartWriter(file, shape, dtype)
                for row in range(cuts[part], cuts[part + 1]):
                    writer.append(sample(row)[name])
                writer.close()
    modalities = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in SHAPES.items()}
    manifest = {
        "modalities": modalities,
        "classes": ["a", "b"],
        "fingerprint": "",
        "num_rows": num_rows,
        "batch_rows": 64,
    }
    features = FeatureSet(
        path,
        {**manifest, "parts": [{"index": i, "rows": cuts[i + 1] - cuts[i]} for i in range(parts)]},
    )
    features.__dict__["labels"] = np.zeros(num_rows, np.int32)
    features.__dict__["has"] = np.ones((num_rows, len(SHAPES)), bool)
    return features


def write_shards(folder: Path, num_rows: int) -> list[str]:
    """Write the samples as WebDataset shards."""
    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/%06d.tar", maxcount=2500, verbose=0) as sink:
        for row in range(num_rows):
            sink.write(
                {
                    "__key__": f"{row:08d}",
                    **{f"{name}.npy": array for name, array in sample(row).items()},
                }
            )
    return sorted(str(path) for path in folder.iterdir())


def seconds(run: Callable[[], int]) -> float:
    """Wall time of one pass."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def by_plan(features: FeatureSet, plan: BatchPlan) -> int:
    """Load one epoch with the loader of the trainer."""
    loader = PlanLoader(features, plan, start=0, world=World(), skip_masked=True, prefetch=3)
    return sum(len(batch.rows) for batch in loader)


def by_memcpy(source: dict[str, np.ndarray], num_rows: int) -> int:
    """Copy the same bytes from memory to memory, in batches."""
    for start in range(0, num_rows, BATCH):
        for array in source.values():
            array[start : start + BATCH].copy()
    return num_rows


def by_webdataset(shards: list[str]) -> int:
    """Load one epoch with webdataset."""
    names = [f"{name}.npy" for name in SHAPES]
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .shuffle(1000)
        .decode()
        .to_tuple(*names)
        .batched(BATCH)
    )
    return sum(len(batch[0]) for batch in dataset)


def by_litdata(folder: str) -> int:
    """Load one shuffled epoch with litData."""
    from litdata import StreamingDataLoader, StreamingDataset

    loader = StreamingDataLoader(
        StreamingDataset(folder, shuffle=True), batch_size=BATCH, num_workers=0
    )
    return sum(len(batch["video"]) for batch in loader)


def main() -> None:
    """Print one JSON line; `ratio` is rows/s in plan order divided by rows/s of memcpy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        features = write_tables(StorePath.at(folder / "tables"), args.rows)
        plan = build(
            joint_plan_builder(
                np.arange(args.rows),
                batch_size=BATCH,
                seed=0,
                epoch=0,
                modalities=features.modalities,
            )
        )
        memory = {name: features.read(name, np.arange(args.rows)) for name in SHAPES}
        shards = write_shards(folder / "shards", args.rows)
        sides: dict[str, Callable[[], int]] = {
            "plan": lambda: by_plan(features, plan),
            "memcpy": lambda: by_memcpy(memory, args.rows),
            "webdataset": lambda: by_webdataset(shards),
        }
        try:
            from litdata import optimize
        except ImportError:
            optimize = None
        if optimize:
            os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
            optimize(
                fn=sample,
                inputs=list(range(args.rows)),
                output_dir=str(folder / "lit"),
                chunk_bytes="64MB",
                num_workers=2,
            )
            sides["litdata"] = lambda: by_litdata(str(folder / "lit"))
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.repeats):
            for name, run in sides.items():
                times[name].append(seconds(run))
        rates = {name: args.rows / statistics.median(values) for name, values in times.items()}
        ratios = {
            f"plan_over_{name}": rates["plan"] / rates[name] for name in rates if name != "plan"
        }
        bytes_per_row = sum(array[0].nbytes for array in memory.values())
        report(
            "load",
            rates["plan"] / rates["memcpy"],
            rows_per_second=rates,
            bytes_per_row=bytes_per_row,
            rows=args.rows,
            **ratios,
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
