"""Writer of WebDataset shards.

The same samples give the same bytes, and the folder becomes visible only when it is complete.
"""

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import yaml
from webdataset import ShardWriter

from pipeline.decode.config import DecodeConfig
from pipeline.errors import InputError
from pipeline.storage.locks import writing
from pipeline.storage.store_path import StorePath, unwritable

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]
Progress = Callable[[int, int], None]
"""Called with the number of samples written and the total number."""

DECODE = "decode.yaml"
SUMMARY = "shards.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSample:
    """A sample to write: `<key>.json` and a member `<key>.<suffix>` per entry of `members`.

    `metadata` is written to the JSON file too.
    """

    key: str
    sample_id: str
    label: str
    split: str
    metadata: Mapping[str, JsonValue]
    members: Mapping[str, bytes]

    def encoded(self) -> dict[str, str | bytes]:
        """Return the sample in the form that webdataset writes."""
        required = {"sample_id": self.sample_id, "label": self.label, "split": self.split}
        content = json.dumps({**self.metadata, **required}, sort_keys=True, ensure_ascii=False)
        return {"__key__": self.key, "json": content.encode(), **self.members}


def write_shards(
    out: Path,
    samples: Iterable[NewSample],
    *,
    num_samples: int,
    num_shards: int,
    decode: DecodeConfig,
    origin: Mapping[str, JsonValue],
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Write shards, decode.yaml and shards.json.

    Args:
        out: folder to create.
        samples: the samples in their order.
        num_samples: number of samples.
        num_shards: number of shards, whose numbers of samples differ by at most one.
        decode: content of decode.yaml.
        origin: arguments of the importer or generator, for shards.json.
        progress: called after each sample.
    Returns:
        The content of shards.json.
    Raises:
        InputError: `out` is a file or not empty.
        StoreError: `out` cannot be written.
    """
    with _new_folder(out) as folder:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        missing = dict.fromkeys(decode.modalities, 0)
        sizes: dict[str, int] = {}
        shard_starts = {-(-shard * num_samples // num_shards) for shard in range(1, num_shards)}
        with _shard_writer(folder, sizes) as writer:
            for number, sample in enumerate(samples):
                if number in shard_starts:
                    writer.next_stream()
                writer.write(sample.encoded())
                counts[sample.split][sample.label] += 1
                for name, spec in decode.modalities.items():
                    missing[name] += sample.members.keys().isdisjoint(spec.member)
                if progress:
                    progress(number + 1, num_samples)
        summary: dict[str, JsonValue] = {
            "samples": num_samples,
            "splits": {
                split: {"samples": labels.total(), "labels": dict(sorted(labels.items()))}
                for split, labels in sorted(counts.items())
            },
            "missing": {**missing},
            "shards": {**sizes},
            "origin": dict(origin),
        }
        fields = decode.model_dump(mode="json", exclude_none=True)
        (folder / DECODE).write_text(
            yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        (folder / SUMMARY).write_text(
            json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return summary


def check_vacant(out: Path) -> None:
    """Raise InputError if a path is a file or a folder with content, StoreError if unreadable."""
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"OUT is a file: {out}", "Pass the path of a new folder.")
        if out.exists() and any(out.iterdir()):
            raise InputError(f"OUT is not empty: {out}", "Pass a new folder or remove this one.")
    except OSError as error:
        raise unwritable(StorePath.at(out), error) from error


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to `out` if the block succeeds."""
    check_vacant(out)
    out = out.absolute()
    temporary = out.with_name(f".{out.name}.{uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        with writing(temporary):
            StorePath.at(out.parent).sweep(out.name)
            yield temporary
            os.replace(temporary, out)
    except OSError as error:
        raise unwritable(StorePath.at(out), error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _shard_writer(folder: Path, sizes: dict[str, int]) -> Iterator[ShardWriter]:
    """Yield webdataset's writer, and store the size of each shard in `sizes`.

    The files are opened here because webdataset would interpret a path as a URL, and does not close
    files that were passed to it.
    """
    files = {}

    def open_shard(name: str) -> object:
        files[name] = (folder / name).open("wb")
        return files[name]

    def close_shard(name: str) -> None:
        with files.pop(name) as file:
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()

    with ShardWriter(
        "shard-%06d.tar",
        maxcount=2**62,
        maxsize=2**62,
        opener=open_shard,
        post=close_shard,
        verbose=0,
        encoder=False,
        mtime=0,
        user="",
        group="",
        mode=0o644,
    ) as writer:
        yield writer
