"""Damaged shards of 50 clips of avwords through Remix, webdataset, Python's tarfile and Ray's reader: what each yields, and what it says. Prints a table.

Needs REMIX_TEST_DATA. A sample counts where its .json and .mp4 have the very bytes of the original. Every reader is used as its own documentation shows,
in a process of its own; what it says is an exception, a warning or a log line.
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
from tests.support.media_files import facts

NUM = 50
SECONDS = 600
Found = tuple[str, dict[str, bytes]]


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
                "json": facts(row["word"], row["split"]),
                "mp4": media[row["video_path"]],
            }
            for row in rows
        }
    )


def by_webdataset(path: Path) -> Iterator[Found]:
    """As webdataset reads it."""
    import webdataset

    for sample in webdataset.WebDataset([str(path)], shardshuffle=False):
        yield sample["__key__"], sample


def by_tarfile(path: Path) -> Iterator[Found]:
    """As one reads a tar by hand: the members of a key that lie together are a sample."""
    with tarfile.open(path) as tar:
        files = (
            (member.name.rpartition("."), tar.extractfile(member))
            for member in tar
            if member.isfile()
        )
        members = ((key, suffix, file.read()) for (key, _, suffix), file in files if file)
        for key, group in itertools.groupby(members, key=lambda member: member[0]):
            yield key, {suffix: data for _, suffix, data in group}


def by_ray(path: Path) -> Iterator[Found]:
    """As Ray Data reads it, undecoded."""
    import ray

    for row in ray.data.read_webdataset(str(path), decoder=None).iter_rows():
        yield row["__key__"], row


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    "webdataset": by_webdataset,
    "tarfile": by_tarfile,
    "ray": by_ray,
}


def read_all(reader: str, folder: Path) -> None:
    """Reads the shards of a folder, and prints a JSON line for each: how many samples came whole, how many not, and what was said."""
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
    logs = Logged(logging.WARNING)
    logging.getLogger().addHandler(logs)
    for path in sorted(folder.glob("*.tar*")):
        logs.said.clear()
        found: Counter[str] = Counter()
        error = ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                for key, members in READERS[reader](path):
                    found[
                        "whole"
                        if sums(members) == originals.get(key.rpartition("/")[2])
                        else "wrong"
                    ] += 1
            except Exception as raised:
                error = told(raised)
        others = [
            str(each.message)
            for each in warned
            if each.category is UserWarning or each.category is RuntimeWarning
        ]
        print(
            json.dumps(
                {
                    "shard": path.name,
                    "whole": found["whole"],
                    "wrong": found["wrong"],
                    "said": "; ".join([error, *logs.said, *others]),
                }
            ),
            flush=True,
        )


class Logged(logging.Handler):
    """What was logged as a warning or worse."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        self.said.append(record.getMessage())


def told(error: Exception) -> str:
    """The kind of an error and the first line that it says; of Ray's, which wrap it, those of the error itself."""
    while isinstance(cause := getattr(error, "cause", None), Exception):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"


def sums(members: Mapping[str, object]) -> dict[str, int]:
    """CRC-32 of the members that a sample has to have."""
    return {
        suffix: zlib.crc32(data)
        for suffix in ("json", "mp4")
        if isinstance(data := members.get(suffix), bytes)
    }


def by_remix(path: Path, case: Case) -> str:
    """What Remix kept and named; raises where that is not all that can be saved."""
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
    apart = f", {account.regrouped} put together" if account.regrouped else ""
    return f"{len(case.kept)}{apart}; {f'{len(losses)} named: {named}' if losses else 'nothing to name'}"


def by_others(reader: str, folder: Path, cases: Mapping[str, Case]) -> dict[str, str]:
    """What another reader made of each shard, by its name."""
    command = [sys.executable, __file__, reader, str(folder)]
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    found = {}
    for line in ended.stdout.splitlines():
        if line.startswith('{"shard"'):
            one = json.loads(line)
            wrong = f" and {one['wrong']} not whole" if one["wrong"] else ""
            lost = one["whole"] < NUM or one["wrong"]
            found[one["shard"]] = (
                f"{one['whole']}{wrong}; {short(one['said'].strip('; ')) or ('**nothing said**' if lost else 'nothing said')}"
            )
    return found


def short(text: str, most: int = 80) -> str:
    """The text on one line, without folders, and without what would end a cell of a table."""
    line = (
        re.sub(r"(?:file:)?/\S*/", "", " ".join(text.split()))
        .replace("|", "/")
        .replace("<", "(")
        .replace(">", ")")
    )
    return line if len(line) <= most else f"{line[: most - 2]} …"


def main() -> None:
    """Makes the shards, has all read them, and prints the table."""
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
            "| shard | can be saved | Remix | webdataset | tarfile | Ray |\n|---|---|---|---|---|---|"
        )
        for case, path in paths.items():
            cells = [
                by_remix(path, cases[case]),
                *(others[reader].get(path.name, "ended without an answer") for reader in READERS),
            ]
            print(f"| {case} | {len(cases[case].kept)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    read_all(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else main()
