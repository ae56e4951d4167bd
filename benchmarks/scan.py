"""Reading intact shards: the bare scan and the full read of Remix against Python's tarfile and webdataset, in alternating rounds of one process.

Needs REMIX_TEST_DATA. The bare scan verifies the structure of every byte and hands out no data; the full read hands out every member. Neither hashes, decodes
or parses. tarfile is read in both ways too: `member.read()` of every member, and its headers alone. With REMIX_BEFORE, the path of another checkout of Remix,
that checkout's reader scans the same shards, each round in processes of their own that take turns.
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

ALONE = """
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
print(json.dumps({name: sorted(scan(hashed) for _ in range(5))[2] for name, hashed in (("bare", False), ("hashed", True))}))
"""
"""Samples a second of a scan in a process of its own by the checkout that is given first, bare, and with the digest that decoding's first pass takes."""


def make_shards(folder: Path) -> list[str]:
    """Packs avwords into shards."""
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
            facts = {"sample_id": row["sample_id"], "label": row["word"], "split": row["split"]}
            writer.write(
                {"__key__": row["sample_id"], "json": facts, "mp4": media[row["video_path"]]}
            )
    return sorted(str(path) for path in folder.iterdir())


def by_remix(paths: list[str], load: Callable[[str], bool]) -> int:
    """Samples that Remix finds whole."""
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
    """Half of the members that tarfile finds; with `data` it reads them."""
    num = 0
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                num += 1
                if data:
                    tar.extractfile(member).read()  # type: ignore[union-attr]
    return num // 2


def by_webdataset(paths: list[str]) -> int:
    """Samples that webdataset yields, undecoded."""
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
    """Samples a second of each reader, round by round."""
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
    """Samples a second of the scans of this checkout and of the other's, in processes that take turns."""
    checkouts = {"now": str(Path(__file__).resolve().parent.parent), "before": before}
    rates: dict[str, dict[str, list[float]]] = {
        "bare": {"now": [], "before": []},
        "hashed": {"now": [], "before": []},
    }
    for number in range(ROUNDS):
        for name in sorted(checkouts, reverse=bool(number % 2)):
            ended = subprocess.run(
                [sys.executable, "-c", ALONE, checkouts[name], *paths],
                cwd=checkouts[name],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            for kind, rate in json.loads(ended.stdout).items():
                rates[kind][name].append(rate)
    return rates


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios of the rounds."""
    return round(median(a / b for a, b in zip(above, below, strict=True)), 4)


def main() -> None:
    """Measures and prints one JSON line."""
    facts: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        paths = make_shards(Path(name))
        rates = measure(paths)
        if "REMIX_BEFORE" in os.environ:
            turns = measure_before(paths, os.environ["REMIX_BEFORE"])
            facts["before"] = {
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
        goal=f"bare scan against tarfile and webdataset, the smaller, at least {GOAL}",
        above={
            "what": "bare scan by Remix, samples/s",
            "median": round(median(rates["scan"])),
            "rounds": [round(rate) for rate in rates["scan"]],
        },
        below={
            "what": "the others, samples/s, median",
            **{name: round(median(rates[name])) for name in READERS if name != "scan"},
        },
        ratios=ratios,
        **facts,
        shards=len(paths),
        bytes=num_bytes,
    )


if __name__ == "__main__":
    main()
