"""Loading throughput in plan order, relative to a random gather in memory; also of other loaders.

    pip install -e ".[bench]" -c constraints.txt
    python benchmarks/load.py [--rows 20000] [--batch 64] [--repeats 5] [--memory]

A sample has 52 KB: 8 frames of 3x46x46 and a spectrogram of 1x64x10. The page cache is warm. Every
loader returns batches of `--batch` rows as arrays. A plan reads memory-mapped features at random.
The gather takes the same rows in the same order from one array in memory, and frees each batch at
once, or keeps as many as the loader reads ahead. webdataset reads its shards sequentially with a
shuffle buffer of 1,000, litData with 0 and with 2 workers.

With --memory it reads random rows of tables of 1, 10 and 100 million rows instead, each in a new
process, and reports the anonymous memory of the process. The parts are links to one file.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
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
PREFETCH = 3
"""Batches that the loader reads ahead, the default of `resources.prefetch`."""
MILLION = 1_000_000
NARROW = {"narrow": ((64,), "uint8")}


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
    features = feature_set(path, SHAPES, np.diff(cuts).tolist())
    features.__dict__["labels"] = np.zeros(num_rows, np.int32)
    features.__dict__["has"] = np.ones((num_rows, len(SHAPES)), bool)
    return features


def feature_set(
    path: StorePath, shapes: Mapping[str, tuple[tuple[int, ...], str]], part_rows: Sequence[int]
) -> FeatureSet:
    """A feature set of parts that exist, without samples."""
    return FeatureSet(
        path,
        {
            "modalities": {
                name: {"shape": s, "dtype": dtype} for name, (s, dtype) in shapes.items()
            },
            "classes": ["a", "b"],
            "fingerprint": "",
            "num_rows": sum(part_rows),
            "batch_rows": 64,
            "parts": [{"index": i, "rows": rows} for i, rows in enumerate(part_rows)],
        },
    )


def write_narrow(path: StorePath, num_parts: int) -> None:
    """Write parts of a million rows of 64 bytes, all but the first as links."""
    (name, (shape, dtype)), *_ = NARROW.items()
    first = path / name / part_name(0)
    with first.create() as file:
        writer = PartWriter(file, shape, dtype)
        row = np.zeros(shape, dtype)
        for _ in range(MILLION):
            writer.append(row)
        writer.close()
    for part in range(1, num_parts):
        os.link(str(first), str(path / name / part_name(part)))


def memory_of_reading(folder: Path, num_parts: int, num_reads: int) -> int:
    """Anonymous memory of this process in bytes after it has read random batches."""
    features = feature_set(StorePath.at(folder), NARROW, [MILLION] * num_parts)
    rng = np.random.default_rng(0)
    for _ in range(num_reads):
        features.read("narrow", rng.integers(0, features.num_rows, BATCH))
    # memory of mapped files is the system's cache
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def measure_memory(folder: Path, num_reads: int) -> None:
    """Print one JSON line; `ratio` is memory with 100 million rows divided by that with 1."""
    write_narrow(StorePath.at(folder), 100)
    used = {}
    for millions in (1, 10, 100):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            used[millions] = pool.submit(memory_of_reading, folder, millions, num_reads).result()
    report(
        "load_memory",
        used[100] / used[1],
        bytes_by_million_rows=used,
        rows_read=num_reads * BATCH,
    )


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
    loader = PlanLoader(features, plan, start=0, world=World(), skip_masked=True, prefetch=PREFETCH)
    return sum(len(batch.rows) for batch in loader)


def by_memcpy(source: dict[str, np.ndarray], num_rows: int, batch: int) -> int:
    """Copy the same bytes from memory to memory, in batches."""
    for start in range(0, num_rows, batch):
        for array in source.values():
            array[start : start + batch].copy()
    return num_rows


def by_gather(source: dict[str, np.ndarray], batches: list[np.ndarray], kept: int) -> int:
    """Gather the same rows, in the same order, from one array in memory; keep `kept` batches."""
    ahead = deque[list[np.ndarray]](maxlen=kept)
    for rows in batches:
        ahead.append([array.take(rows, axis=0) for array in source.values()])
    return len(batches)


def by_read(features: FeatureSet, batches: list[np.ndarray]) -> int:
    """Read the same rows, in the same order, without the loader."""
    for rows in batches:
        for name in features.modalities:
            features.read(name, rows)
    return len(batches)


def by_webdataset(shards: list[str], batch: int) -> int:
    """Load one epoch with webdataset."""
    names = [f"{name}.npy" for name in SHAPES]
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .shuffle(1000)
        .decode()
        .to_tuple(*names)
        .batched(batch)
    )
    return sum(len(batch[0]) for batch in dataset)


def by_litdata(folder: str, batch: int, workers: int) -> int:
    """Load one shuffled epoch with litData."""
    from litdata import StreamingDataLoader, StreamingDataset

    loader = StreamingDataLoader(
        StreamingDataset(folder, shuffle=True), batch_size=batch, num_workers=workers
    )
    return sum(len(batch["video"]) for batch in loader)


def litdata_sides(folder: Path, num_rows: int, batch: int) -> dict[str, Callable[[], int]]:
    """The sides of litData, none if it is not installed; writes its chunks."""
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
    try:
        from litdata import optimize
    except ImportError:
        return {}
    optimize(
        fn=sample,
        inputs=list(range(num_rows)),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=2,
    )
    return {
        f"litdata_{workers}_workers": partial(by_litdata, str(folder), batch, workers)
        for workers in (0, 2)
    }


def measure_throughput(folder: Path, num_rows: int, batch: int, repeats: int) -> None:
    """Print one JSON line; `ratio` is rows/s in plan order divided by rows/s of the gather."""
    features = write_tables(StorePath.at(folder / "tables"), num_rows)
    rows = np.arange(num_rows)
    plan = build(
        joint_plan_builder(rows, batch_size=batch, seed=0, epoch=0, modalities=features.modalities)
    )
    memory = {name: features.read(name, rows) for name in SHAPES}
    batches = [step.rows for step in plan.steps()]
    shards = write_shards(folder / "shards", num_rows)
    sides: dict[str, Callable[[], int]] = {
        "plan": lambda: by_plan(features, plan),
        "gather": lambda: by_gather(memory, batches, 0),
        "gather_kept": lambda: by_gather(memory, batches, 1 + PREFETCH),
        "read": lambda: by_read(features, batches),
        "memcpy": lambda: by_memcpy(memory, num_rows, batch),
        "webdataset": lambda: by_webdataset(shards, batch),
        **litdata_sides(folder / "lit", num_rows, batch),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            times[name].append(seconds(run))
    # of pairs, as the speed of a shared machine changes
    ratios = {
        f"plan_over_{name}": statistics.median(
            other / own for own, other in zip(times["plan"], values, strict=True)
        )
        for name, values in times.items()
        if name != "plan"
    }
    report(
        "load",
        ratios["plan_over_gather"],
        rows_per_second={
            name: num_rows / statistics.median(values) for name, values in times.items()
        },
        bytes_per_row=sum(array[0].nbytes for array in memory.values()),
        rows=num_rows,
        batch=batch,
        **ratios,
    )


def main() -> None:
    """Measure throughput or memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        if args.memory:
            measure_memory(folder, args.rows)
        else:
            measure_throughput(folder, args.rows, args.batch, args.repeats)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
