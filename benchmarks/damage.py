"""Compares how Remix, webdataset, tarfile and Ray read damaged shards of 50 clips of avwords.

Needs REMIX_TEST_DATA. Prints a table: the number of samples that each reader recovers, and its
messages (exceptions, warnings, log lines). A sample is recovered if its .json and .mp4 have the
original bytes. Every reader is used as in its own documentation, in a process of its own.
"""

import csv
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import _report  # noqa: F401 - makes this checkout the Remix that is measured

from pipeline.shards.reader import read_twice
from pipeline.shards.samples import RejectedSample, Sample
from pipeline.storage.store_path import StorePath
from tests.support.damage import Case, catalogue, make_shard, samples_of
from tests.support.media_files import facts as sample_json

NUM = 50
SECONDS = 600
KeyAndMembers = tuple[str, dict[str, bytes]]


def shard_of_clips() -> bytes:
    """The first clips of avwords as an intact shard."""
    source = Path(os.environ["REMIX_TEST_DATA"]) / "avwords"
    with open(source / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.DictReader(file), NUM))
    with tarfile.open(source / "data.tar.gz") as tar:
        media = {member.name: file.read() for member in tar if (file := tar.extractfile(member))}
    return make_shard(
        {
            row["sample_id"]: {
                "json": sample_json(row["word"], row["split"]),
                "mp4": media[row["video_path"]],
            }
            for row in rows
        }
    )


def by_webdataset(path: Path) -> Iterator[KeyAndMembers]:
    """Read a shard with webdataset."""
    import webdataset

    for sample in webdataset.WebDataset([str(path)], shardshuffle=False):
        yield sample["__key__"], sample


def by_tarfile(path: Path) -> Iterator[KeyAndMembers]:
    """Read a shard with tarfile: consecutive members with the same key are a sample."""
    with tarfile.open(path) as tar:
        files = (
            (member.name.rpartition("."), tar.extractfile(member))
            for member in tar
            if member.isfile()
        )
        members = ((key, suffix, file.read()) for (key, _, suffix), file in files if file)
        for key, group in itertools.groupby(members, key=lambda member: member[0]):
            yield key, {suffix: data for _, suffix, data in group}


def by_ray(path: Path) -> Iterator[KeyAndMembers]:
    """Read a shard with Ray Data, undecoded."""
    import ray

    for row in ray.data.read_webdataset(str(path), decoder=None).iter_rows():
        yield row["__key__"], row


READERS: dict[str, Callable[[Path], Iterator[KeyAndMembers]]] = {
    "webdataset": by_webdataset,
    "tarfile": by_tarfile,
    "ray": by_ray,
}


def read_all(reader: str, folder: Path) -> None:
    """Read the shards of a folder; print a JSON line for each.

    The line has the number of intact and of wrong samples, and the messages of the reader.
    """
    if reader == "ray":
        import ray

        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=2**28,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
    originals = json.loads((folder / "originals.json").read_text())
    logs = LogMessages(logging.WARNING)
    logging.getLogger().addHandler(logs)
    for path in sorted(folder.glob("*.tar*")):
        logs.messages.clear()
        counts: Counter[str] = Counter()
        error = ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                for key, members in READERS[reader](path):
                    counts[
                        "whole"
                        if sums(members) == originals.get(key.rpartition("/")[2])
                        else "wrong"
                    ] += 1
            except Exception as raised:
                error = describe(raised)
        others = [
            str(warning.message)
            for warning in warned
            if warning.category in (UserWarning, RuntimeWarning)
        ]
        print(
            json.dumps(
                {
                    "shard": path.name,
                    "whole": counts["whole"],
                    "wrong": counts["wrong"],
                    "said": "; ".join([error, *logs.messages, *others]),
                }
            ),
            flush=True,
        )


class LogMessages(logging.Handler):
    """Collects log messages."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Store the message."""
        self.messages.append(record.getMessage())


def describe(error: Exception) -> str:
    """Type and first line of an error; of the cause, if Ray wrapped it."""
    while isinstance(cause := getattr(error, "cause", None), Exception):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"


def sums(members: Mapping[str, object]) -> dict[str, int]:
    """CRC-32 of the members .json and .mp4."""
    return {
        suffix: zlib.crc32(data)
        for suffix in ("json", "mp4")
        if isinstance(data := members.get(suffix), bytes)
    }


def by_remix(path: Path, case: Case) -> str:
    """Read a shard with Remix.

    Raises AssertionError if it does not recover everything that is recoverable.
    """
    items, reader = read_twice(StorePath.at(path), list)
    assert {item.key: item.members for item in items if isinstance(item, Sample)} == case.kept
    losses = [
        loss
        for item in items
        for loss in (item.damaged if isinstance(item, RejectedSample) else item.ignored)
    ]
    account = reader.accounting
    assert account.members == account.kept + account.lost + account.ignored
    named = ", ".join(
        f"{reason} {num}" for reason, num in Counter(loss.reason for loss in losses).items()
    )
    joined = f", {account.regrouped} reassembled" if account.regrouped else ""
    reported = f"{len(losses)} reported: {named}" if losses else "nothing to report"
    return f"{len(case.kept)}{joined}; {reported}"


def by_others(reader: str, folder: Path, cases: Mapping[str, Case]) -> dict[str, str]:
    """Results of another reader by shard name."""
    command = [sys.executable, __file__, reader, str(folder)]
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    results = {}
    for line in ended.stdout.splitlines():
        if line.startswith('{"shard"'):
            result = json.loads(line)
            wrong = f" and {result['wrong']} wrong" if result["wrong"] else ""
            is_lossy = result["whole"] < NUM or result["wrong"]
            silent = "**no message**" if is_lossy else "no message"
            message = short(result["said"].strip("; ")) or silent
            results[result["shard"]] = f"{result['whole']}{wrong}; {message}"
    return results


def short(text: str, length: int = 80) -> str:
    """The text on one line, without folders and without characters that break a table."""
    line = (
        re.sub(r"(?:file:)?/\S*/", "", " ".join(text.split()))
        .replace("|", "/")
        .replace("<", "(")
        .replace(">", ")")
    )
    return line if len(line) <= length else f"{line[: length - 2]} …"


def main() -> None:
    """Create the shards, read them with every reader, and print the table."""
    shard = shard_of_clips()
    cases = {"intact": Case(data=shard, kept=samples_of(shard)), **catalogue(shard)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {case: folder / f"{i:02d}{cases[case].suffix}" for i, case in enumerate(cases)}
        for case, path in paths.items():
            path.write_bytes(cases[case].data)
        (folder / "originals.json").write_text(
            json.dumps({key: sums(members) for key, members in samples_of(shard).items()})
        )
        others = {reader: by_others(reader, folder, cases) for reader in READERS}
        print(
            "| shard | recoverable | Remix | webdataset | tarfile | Ray |\n"
            "|---|---|---|---|---|---|"
        )
        for case, path in paths.items():
            cells = [
                by_remix(path, cases[case]),
                *(others[reader].get(path.name, "ended without a result") for reader in READERS),
            ]
            print(f"| {case} | {len(cases[case].kept)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    read_all(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else main()
