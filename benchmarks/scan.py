"""Throughput of reading intact shards with Remix, tarfile and webdataset.

Needs REMIX_TEST_DATA. The readers alternate within one process. Remix is measured twice: a scan,
which verifies the structure of every byte but returns no data, and a read, which returns every
member; neither hashes nor decodes. tarfile is measured twice, too: reading every member, and
headers only. With REMIX_BEFORE, the path of another checkout, the scan is also compared with that
checkout, in alternating processes.
"""

import csv
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from _report import report

ROUNDS = int(os.environ.get("REMIX_BENCH_ROUNDS", "31"))
NUM_SHARDS = 16
GOAL, GOAL_BEFORE = 3.0, 1.05
Read = Callable[[list[str]], int]

SCAN_SCRIPT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from pipeline.shards.reader import ShardReader, ShardFile
from pipeline.storage.store_path import StorePath
def scan(hashed):
    start, num = time.perf_counter(), 0
    for path in sys.argv[2:]:
        with ShardFile(StorePath.at(path)) as file:
            num += sum(1 for _ in ShardReader(file, load=lambda suffix: False, hashed=hashed))
    return num / (time.perf_counter() - start)
kinds = {"bare": False, "hashed": True}
medians = {name: sorted(scan(hashed) for _ in range(5))[2] for name, hashed in kinds.items()}
print(json.dumps(medians))
"""
"""Prints samples/s of a scan by the checkout in argv[1], without and with hashing."""


def make_shards(folder: Path) -> list[str]:
    """Pack avwords into shards; return their paths."""
    import webdataset

    source = Path(os.environ["REMIX_TEST_DATA"]) / "avwords"
    with open(source / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with tarfile.open(source / "data.tar.gz") as tar:
        media = {member.name: data.read() for member in tar if (data := tar.extractfile(member))}
    with webdataset.ShardWriter(
        str(folder / "all-%06d.tar"), maxcount=-(-len(rows) // NUM_SHARDS), verbose=0
    ) as writer:
        for row in rows:
            metadata = {"sample_id": row["sample_id"], "label": row["word"], "split": row["split"]}
            writer.write(
                {"__key__": row["sample_id"], "json": metadata, "mp4": media[row["video_path"]]}
            )
    return sorted(str(path) for path in folder.iterdir())


def by_remix(paths: list[str], load: Callable[[str], bool]) -> int:
    """Number of intact samples that Remix reads."""
    from pipeline.shards.reader import ShardReader

    num = 0
    for path in paths:
        with open(path, "rb", 0) as file:
            reader = ShardReader(file, hashed=False, load=load)
            num += sum(1 for _ in reader.samples())
            assert reader.accounting.lost == 0
            assert reader.accounting.bytes == Path(path).stat().st_size
    return num


def by_tarfile(paths: list[str], data: bool) -> int:
    """Number of samples that tarfile reads, two members each; with `data` including content."""
    num = 0
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                num += 1
                if data:
                    tar.extractfile(member).read()  # type: ignore[union-attr]
    return num // 2


def by_webdataset(paths: list[str]) -> int:
    """Number of samples that webdataset reads, undecoded."""
    import webdataset

    return sum(1 for _ in webdataset.WebDataset(paths, shardshuffle=False))


READERS: dict[str, Read] = {
    "scan": lambda paths: by_remix(paths, lambda suffix: False),
    "read": lambda paths: by_remix(paths, lambda suffix: True),
    "tarfile": lambda paths: by_tarfile(paths, data=True),
    "tarfile, headers": lambda paths: by_tarfile(paths, data=False),
    "webdataset": by_webdataset,
}


def measure(paths: list[str]) -> dict[str, list[float]]:
    """Samples/s of each reader in each round."""
    rates: dict[str, list[float]] = {name: [] for name in READERS}
    num = READERS["tarfile"](paths)
    for number in range(ROUNDS + 1):
        for name, read in READERS.items():
            start = time.perf_counter()
            assert read(paths) == num, name
            if number:  # the first round warms up
                rates[name].append(num / (time.perf_counter() - start))
    return rates


def measure_before(paths: list[str], before: str) -> dict[str, dict[str, list[float]]]:
    """Samples/s of scans by this and another checkout, in alternating processes."""
    checkouts = {"now": str(Path(__file__).resolve().parent.parent), "before": before}
    rates: dict[str, dict[str, list[float]]] = {
        "bare": {"now": [], "before": []},
        "hashed": {"now": [], "before": []},
    }
    for number in range(ROUNDS):
        for name in sorted(checkouts, reverse=bool(number % 2)):
            ended = subprocess.run(
                [sys.executable, "-c", SCAN_SCRIPT, checkouts[name], *paths],
                cwd=checkouts[name],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            for kind, rate in json.loads(ended.stdout).items():
                rates[kind][name].append(rate)
    return rates


def ratio(above: list[float], below: list[float]) -> float:
    """The median over rounds of the ratios."""
    return round(median(a / b for a, b in zip(above, below, strict=True)), 4)


def main() -> None:
    """Measure and print one JSON line."""
    comparison: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        paths = make_shards(Path(name))
        rates = measure(paths)
        if "REMIX_BEFORE" in os.environ:
            turns = measure_before(paths, os.environ["REMIX_BEFORE"])
            comparison["before"] = {
                "goal": f"ratio_before (seconds now / seconds before) at most {GOAL_BEFORE}",
                **{
                    f"ratio_before_{kind}": ratio(rate["before"], rate["now"])
                    for kind, rate in turns.items()
                },
                **{
                    kind: {which: round(median(values)) for which, values in rate.items()}
                    for kind, rate in turns.items()
                },
            }
        num_bytes = sum(Path(path).stat().st_size for path in paths)
    ratios = {
        f"{one} / {other}": ratio(rates[one], rates[other])
        for one in ("scan", "read")
        for other in ("tarfile", "tarfile, headers", "webdataset")
    }
    report(
        "scan",
        min(ratios["scan / tarfile"], ratios["scan / webdataset"]),
        goal=f"the smaller ratio of the scan to tarfile and to webdataset: at least {GOAL}",
        above={
            "what": "scan by Remix, samples/s",
            "median": round(median(rates["scan"])),
            "rounds": [round(rate) for rate in rates["scan"]],
        },
        below={
            "what": "the others, samples/s, median",
            **{name: round(median(rates[name])) for name in READERS if name != "scan"},
        },
        ratios=ratios,
        **comparison,
        shards=len(paths),
        bytes=num_bytes,
    )


if __name__ == "__main__":
    main()
