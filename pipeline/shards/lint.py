"""Reports the damage of shards without decoding, and writes clean copies of their samples."""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from io import BytesIO
from typing import Any

from pipeline.errors import InputError, SampleError, StoreError
from pipeline.shards.discover import ENDINGS, ShardFile, shard_names
from pipeline.shards.member_checks import check_member
from pipeline.shards.member_formats import MislabelledCounts
from pipeline.shards.member_suffixes import KINDS_OF
from pipeline.shards.reader import ShardReader, read_twice
from pipeline.shards.reading import Reading, summed
from pipeline.shards.sample_metadata import parse_metadata
from pipeline.shards.samples import RejectedSample, Sample
from pipeline.shards.source import size_warning
from pipeline.storage.atomic_files import HashingFile
from pipeline.storage.store_path import StorePath

Report = dict[str, Any]
Progress = Callable[[int, int], None]


def lint(
    shards: Sequence[StorePath],
    *,
    reading: Reading | None = None,
    progress: Progress | None = None,
) -> Report:
    """Report the damage of shards, and what of them decoding will not read.

    Args:
        shards: the shards.
        reading: how they are read.
        progress: called with the number of shards done and their total.
    Returns:
        Totals, notes on the sizes of the shards, and per shard its accounting, its lost or ignored
        members (key, name, offset, reason), the samples that decoding will reject, the numbers of
        members with another format than their suffix, and of media that no modality reads, by
        suffix.
    Raises:
        MissingError, StoreError.
    """
    reading = reading or Reading()
    reports = []
    for i, (path, name) in enumerate(zip(shards, shard_names(shards), strict=True)):
        findings, reader = read_twice(
            path, partial(_Findings, name, reading), hashed=False, **reading.options
        )
        reports.append({"shard": name, **findings.report(reader)})
        if progress:
            progress(i + 1, len(shards))
    return {**_totals(shards, reports, reading), "shards": reports}


class _Findings:
    """Lost members of a shard, and samples that decoding will reject."""

    def __init__(self, shard: str, reading: Reading, reader: ShardReader) -> None:
        self._shard, self._reading = shard, reading
        self.lost: list[Report] = []
        self.unusable: list[Report] = []
        self.mislabelled = MislabelledCounts()
        self.suffixes: Counter[str] = Counter()
        for item in reader:
            members = item.damaged if isinstance(item, RejectedSample) else item.ignored
            self.lost += [asdict(member) for member in members]
            if isinstance(item, Sample):
                self._check(item, reader)
                self.mislabelled.add(item.members)

    def _check(self, sample: Sample, reader: ShardReader) -> None:
        rules = self._reading.rules
        try:
            if parse_metadata(sample, self._shard, rules) is None:
                reader.ignore(sample)
                return
            self.suffixes.update(sample.suffixes)
            for suffix, data in sample.members.items():
                kinds = KINDS_OF.get(suffix.rpartition(".")[2], ())
                # empty text is a missing modality, not damage
                if suffix in rules.metadata or (not data and "text" in kinds):
                    continue
                check_member(data, suffix)
        except SampleError as error:
            self.unusable.append(
                {"key": sample.key, "reason": error.reason, "detail": error.detail}
            )

    def report(self, reader: ShardReader) -> Report:
        """The report of the shard that `reader` has read."""
        accounting = asdict(reader.accounting)
        return {
            "samples_kept": accounting["samples"],
            "members": accounting["members"],
            "bytes": accounting["bytes"],
            "lost": self.lost,
            "unusable": self.unusable,
            "mislabelled": self.mislabelled.by_suffix,
            "unread": self._reading.unread(self.suffixes),
            "suffixes": dict(self.suffixes),
            "regrouped": reader.regrouped,
            "account": accounting,
        }


def repair(
    shards: Sequence[StorePath],
    out: StorePath,
    *,
    reading: Reading | None = None,
    progress: Progress | None = None,
) -> Report:
    """Write a clean shard with the complete samples of each shard, below `out`.

    Args:
        shards: the shards, not modified.
        out: a folder; an identical clean shard in it is kept.
        reading, progress: as in `lint`.
    Returns:
        The report of `lint` on the shards.
    Raises:
        InputError: two shards have the same name without ending, or `out` has another file of the
            name. StoreError: a shard changed while it was read.
    """
    names = [_clean_name(name) for name in shard_names(shards)]
    for path, name in zip(shards, names, strict=True):
        if names.count(name) > 1:
            raise InputError(
                f"Two shards would be written to {out / name}, one of them {path}",
                "repair them into different folders",
            )
    reading = reading or Reading()
    out.sweep()
    reports = []
    for i, (path, name) in enumerate(zip(shards, names, strict=True)):
        findings, first = read_twice(path, partial(_Findings, name, reading), **reading.options)
        with ShardFile(path) as source, (out / name).create() as file:
            reader = ShardReader(source, non_contiguous=first.non_contiguous, **reading.options)
            _write(reader.samples(), file)
            if reader.digest != first.digest:
                raise StoreError(
                    f"Shard {path} changed while it was read",
                    "run the command again when no program writes to the shard",
                )
            if (out / name).exists() and (out / name).sha256() != file.hexdigest():
                raise InputError(f"{out / name} exists with other content", "give a new folder")
        reports.append({"shard": name, **findings.report(first)})
        if progress:
            progress(i + 1, len(shards))
    return {"out": str(out), **_totals(shards, reports, reading), "shards": reports}


def _write(samples: Iterable[Sample], file: HashingFile) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            for suffix, data in sample.members.items():
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, BytesIO(data))


def _totals(shards: Sequence[StorePath], reports: Sequence[Report], reading: Reading) -> Report:
    suffixes = summed(shard["suffixes"] for shard in reports)
    reasons = Counter(member["reason"] for shard in reports for member in shard["lost"])
    mislabelled = MislabelledCounts()
    for shard in reports:
        mislabelled.merge(shard["mislabelled"])
    warning = size_warning([path.info().size for path in shards])
    return {
        "notes": [warning] if warning else [],
        "samples_kept": sum(shard["samples_kept"] for shard in reports),
        "num_lost": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "unread": reading.unread(suffixes),
        "too_much_unread": reading.unread_share(suffixes) > reading.max_unread_share,
        "num_unusable": sum(len(shard["unusable"]) for shard in reports),
        "mislabelled": mislabelled.by_suffix,
        "num_regrouped": sum(len(shard["regrouped"]) for shard in reports),
    }


def _clean_name(name: str) -> str:
    return next(
        f"{name.removesuffix(ending)}.tar" for ending in (*ENDINGS, "") if name.endswith(ending)
    )
