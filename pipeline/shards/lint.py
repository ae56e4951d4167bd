"""Shards read without decoding: what is in them, what is lost and why; and clean shards of all that can be read."""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any

from pipeline.errors import InputError, SampleError, StoreError
from pipeline.shards.discover import ENDINGS, ShardFile, shard_names
from pipeline.shards.limits import Limits
from pipeline.shards.member_checks import check_member
from pipeline.shards.member_suffixes import TEXT
from pipeline.shards.reader import ShardReader, read_twice
from pipeline.shards.sample_metadata import parse_metadata
from pipeline.shards.samples import RejectedSample, Sample
from pipeline.storage.atomic_files import HashingFile
from pipeline.storage.store_path import StorePath

Found = dict[str, Any]
Progress = Callable[[int, int], None]


def lint(
    shards: Sequence[StorePath],
    *,
    limits: Limits | None = None,
    known: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Found:
    """Of each shard the account, the members that are lost by key, name, offset and reason, and the samples that decoding will reject."""
    found = []
    for i, (path, name) in enumerate(zip(shards, shard_names(shards), strict=True)):
        report, reader = read_twice(path, _Report, limits=limits, known=known, hashed=False)
        found.append({"shard": name, **report.found(reader)})
        if progress:
            progress(i + 1, len(shards))
    return {**_totals(found), "shards": found}


class _Report:
    """What is to be told of a shard's samples."""

    def __init__(self, reader: ShardReader) -> None:
        self.lost: list[Found] = []
        self.unusable: list[Found] = []
        for item in reader:
            self.lost += [
                asdict(loss)
                for loss in (item.losses if isinstance(item, RejectedSample) else item.ignored)
            ]
            if isinstance(item, Sample):
                self._look(item)

    def _look(self, sample: Sample) -> None:
        try:
            parse_metadata(sample, "")
            for suffix, data in sample.members.items():
                if suffix not in TEXT:
                    check_member(data, suffix)
        except SampleError as error:
            self.unusable.append(
                {"key": sample.key, "reason": error.reason, "detail": error.detail}
            )

    def found(self, reader: ShardReader) -> Found:
        account = asdict(reader.account)
        return {
            "samples_kept": account["samples"],
            "members": account["members"],
            "bytes": account["bytes"],
            "lost": self.lost,
            "unusable": self.unusable,
            "regrouped": reader.regrouped,
            "account": account,
        }


def repair(
    shards: Sequence[StorePath],
    out: StorePath,
    *,
    limits: Limits | None = None,
    known: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Found:
    """Writes below `out` a clean shard of each one's whole samples, and tells what they lack (raises InputError where another is there already)."""
    names = [_plain(name) for name in shard_names(shards)]
    for path, name in zip(shards, names, strict=True):
        if names.count(name) > 1:
            raise InputError(
                f"two shards would become {out / name}, one of them {path}",
                "repair them into two folders",
            )
    out.sweep()
    found = []
    for i, (path, name) in enumerate(zip(shards, names, strict=True)):
        report, first = read_twice(path, _Report, limits=limits, known=known)
        with ShardFile(path) as source, (out / name).create() as file:
            reader = ShardReader(source, limits=limits, known=known, torn=first.apart)
            _write(reader.samples(), file)
            if reader.digest != first.digest:
                raise StoreError(
                    f"shard {path} changed while it was read",
                    "run the command again when nobody writes the shard",
                )
            if (out / name).exists() and (out / name).sha256() != file.hexdigest():
                raise InputError(
                    f"{out / name} is there already, with other content", "give a new folder"
                )
        found.append({"shard": name, **report.found(first)})
        if progress:
            progress(i + 1, len(shards))
    return {"out": str(out), **_totals(found), "shards": found}


def _write(samples: Iterable[Sample], file: HashingFile) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            for suffix, data in sample.members.items():
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, BytesIO(data))


def _totals(found: Sequence[Found]) -> Found:
    """The numbers of samples that are whole, of members that are lost by reason, and of samples that decoding will reject."""
    reasons = Counter(loss["reason"] for shard in found for loss in shard["lost"])
    return {
        "samples_kept": sum(shard["samples_kept"] for shard in found),
        "num_lost": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "num_unusable": sum(len(shard["unusable"]) for shard in found),
        "num_regrouped": sum(len(shard["regrouped"]) for shard in found),
    }


def _plain(name: str) -> str:
    return next(
        f"{name.removesuffix(ending)}.tar" for ending in (*ENDINGS, "") if name.endswith(ending)
    )
