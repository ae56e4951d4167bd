"""Describes shards, features, scores, a plan, a run, a comparison or a store as JSON."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from pipeline.decode.inference import config_beside, reading_of
from pipeline.errors import DataError, MissingError, SampleError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.shards.discover import ENDINGS, discover_shards, shard_names
from pipeline.shards.member_formats import MislabelledCounts
from pipeline.shards.reader import ShardReader, read_twice
from pipeline.shards.reading import Reading
from pipeline.shards.sample_metadata import SampleMetadata, parse_metadata
from pipeline.shards.samples import RejectedSample
from pipeline.storage.arrow_files import read_table
from pipeline.storage.metadata import read_metadata
from pipeline.storage.schemas import PLAN, check_columns
from pipeline.storage.store_path import MANIFEST, StorePath
from pipeline.storage.table_checks import check_fingerprint, check_metadata

Summary = dict[str, Any]
FOLDERS = ("features", "runs", "comparisons")
CURE = (
    "give a shard, a folder of shards, features, a scores or plan file, a run, a comparison or a "
    "store"
)


def inspect(path: str | PathLike[str] | StorePath) -> Summary:
    """Describe what a path contains.

    Returns a JSON object, `kind` first, with counts, sizes in bytes, fingerprints and parents.
    Raises MissingError, DataError, StoreError.
    """
    path = StorePath.at(path)
    summary = _summary(path)
    num_bytes = summary.pop("bytes", None)
    return {
        "kind": summary.pop("kind"),
        "path": str(path),
        "bytes": _num_bytes(path) if num_bytes is None else num_bytes,
        **summary,
    }


def _summary(path: StorePath) -> Summary:
    kind = path.info().type
    if kind == pafs.FileType.NotFound:
        if any(sign in path.name for sign in "*?["):
            return _shards(discover_shards([path]))
        raise MissingError(f"Not found: {path}", CURE)
    if kind == pafs.FileType.File:
        return _shards([path]) if path.name.endswith(ENDINGS) else _table(path)
    names = {entry.name for entry in path.list()}
    if MANIFEST in names:
        return _features(FeatureSet.open(path))
    if "run.json" in names:
        return _run(path)
    if "table.json" in names:
        return {"kind": "comparison", **(path / "table.json").read_json()}
    if any(name.endswith(ENDINGS) for name in names):
        return _shards(discover_shards([path]))
    if names & set(FOLDERS):
        return {
            "kind": "store",
            **{folder: [entry.name for entry in (path / folder).list()] for folder in FOLDERS},
        }
    listing = ", ".join(sorted(names)[:5]) or "empty"
    raise DataError(
        f"No artifact of Remix in {path} ({listing})",
        f"{CURE}; unfinished work has no manifest yet",
    )


def _shards(shards: Sequence[StorePath]) -> Summary:
    """Summarise shards; with a decode.yaml beside them, also its modalities."""
    config = config_beside(shards)
    reading = config.reading if config else reading_of(shards)
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    # `kept`: number of samples by their set of suffixes
    suffixes, kept, reasons, rows = Counter[str](), Counter[frozenset[str]](), Counter[str](), []
    mislabelled = MislabelledCounts()
    for path, name in zip(shards, shard_names(shards), strict=True):
        read = partial(_Samples, name, reading)
        samples, reader = read_twice(path, read, hashed=False, **reading.options)
        for metadata in samples.metadata:
            splits[metadata.split or "none"][metadata.label] += 1
        kept.update(samples.kept)
        mislabelled.merge(samples.mislabelled.by_suffix)
        reasons.update(samples.rejected)
        rows.append(
            {
                "shard": name,
                "bytes": int(path.info().size),
                "samples": len(samples.metadata),
                "rejected": len(samples.rejected),
                "account": asdict(reader.accounting),
            }
        )
    for present, num in kept.items():
        suffixes.update(dict.fromkeys(present, num))
    summary: Summary = {
        "kind": "shards",
        "bytes": sum(row["bytes"] for row in rows),
        "num_samples": kept.total(),
        "splits": _split_counts(splits),
        "members": dict(sorted(suffixes.items())),
        "mislabelled": mislabelled.by_suffix,
        "unread": reading.unread(suffixes),
        "num_rejected": reasons.total(),
        "rejected": dict(reasons.most_common()),
        "shards": rows,
    }
    if config:
        specs = config.modalities
        missing = {
            name: sum(num for present, num in kept.items() if present.isdisjoint(spec.member))
            for name, spec in specs.items()
        }
        summary["modalities"] = {
            name: {"kind": spec.kind, "member": list(spec.member), "missing": missing[name]}
            for name, spec in specs.items()
        }
    return summary


class _Samples:
    """Metadata, suffixes and mislabelled members of a shard's usable samples.

    `rejected` are the reasons of the other samples.
    """

    def __init__(self, shard: str, reading: Reading, reader: ShardReader) -> None:
        self.metadata: list[SampleMetadata] = []
        self.kept: Counter[frozenset[str]] = Counter()
        self.mislabelled = MislabelledCounts()
        self.rejected: list[str] = []
        for item in reader:
            if isinstance(item, RejectedSample):
                self.rejected.append(item.reason)
                continue
            try:
                metadata = parse_metadata(item, shard, reading.rules)
            except SampleError as error:
                self.rejected.append(error.reason)
                continue
            if metadata is None:
                reader.ignore(item)
            else:
                self.metadata.append(metadata)
                self.kept[item.suffixes] += 1
                self.mislabelled.add(item.members)


def _features(features: FeatureSet) -> Summary:
    manifest, samples = features.manifest, features.samples
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for group in samples.group_by(["split", "label"]).aggregate([([], "count_all")]).to_pylist():
        splits[group["split"]][features.classes[group["label"]]] += group["count_all"]
    modalities = {
        name: {**spec, "missing": features.num_rows - int(features.has[:, k].sum())}
        for k, (name, spec) in enumerate(manifest["modalities"].items())
    }
    return {
        "kind": "features",
        "num_rows": features.num_rows,
        "splits": _split_counts(splits),
        "modalities": modalities,
        "num_rejected": manifest.get("num_rejected", 0),
        "rejected": manifest.get("reasons", {}),
        "mislabelled": manifest.get("mislabelled", {}),
        "account": _summed(part.get("account", {}) for part in manifest["parts"]),
        "schema": _schema(samples),
        "num_parts": len(manifest["parts"]),
        "fingerprint": features.fingerprint,
        "parents": manifest.get("parents"),
    }


def _summed(accountings: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for accounting in accountings:
        sums.update({name: num for name, num in accounting.items() if isinstance(num, int)})
    return dict(sums)


def _table(path: StorePath) -> Summary:
    table, what = read_table(path, trusted=False), str(path)
    metadata = read_metadata(table.schema, what)
    names = table.column_names
    if set(PLAN.names) <= set(names):
        summary = _plan(BatchPlan.open(path))
    else:
        check_metadata(metadata, what)
        check_fingerprint(table.to_batches(), table.schema, metadata, what)
        summary = (
            _scores(table, what)
            if any(name.startswith("kl_") for name in names)
            else {"kind": "table", "num_rows": table.num_rows}
        )
    return {
        **{key: value for key, value in metadata.items() if key not in ("path", "bytes")},
        **summary,
        "schema": _schema(table),
    }


def _plan(plan: BatchPlan) -> Summary:
    steps = plan.table.select(["modality"]).append_column(
        "num_rows", pc.list_value_length(plan.table["rows"])
    )
    groups = steps.group_by("modality", use_threads=False).aggregate(
        [("num_rows", "count"), ("num_rows", "sum"), ("num_rows", "min"), ("num_rows", "max")]
    )
    modalities = {
        group["modality"]: {
            "steps": group["num_rows_count"],
            "rows": group["num_rows_sum"],
            "smallest_batch": group["num_rows_min"],
            "largest_batch": group["num_rows_max"],
        }
        for group in groups.to_pylist()
    }
    return {
        "kind": "plan",
        "num_steps": len(plan),
        "num_rows": sum(modality["rows"] for modality in modalities.values()),
        "steps": modalities,
    }


def _scores(table: pa.Table, what: str) -> Summary:
    abilities = {}
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if name.startswith("kl_") or name == "label":
            check_columns(table.schema, pa.schema([(name, kind)]), what)
            if not (
                pa.types.is_floating(kind) if name != "label" else pa.types.is_integer(kind)
            ) or (name == "label" and table[name].null_count):
                raise DataError(
                    f"{what}: column {name!r} is {kind} with {table[name].null_count} nulls, "
                    "not one number per row",
                    "write the file again",
                )
        if name.startswith("kl_"):
            bits = table[name].to_numpy()
            finite = bits[np.isfinite(bits)]
            mean = float(finite.mean(dtype=np.float64)) if len(finite) else None
            abilities[name.removeprefix("kl_")] = {
                "missing": int(np.isnan(bits).sum()),
                "infinite": int(np.isinf(bits).sum()),
                "mean_kl": mean,
            }
    labels = (
        Counter(table["label"].to_pylist()) if "label" in table.column_names else Counter[int]()
    )
    return {
        "kind": "scores",
        "num_rows": table.num_rows,
        "labels": {str(label): num for label, num in sorted(labels.items())},
        "abilities": abilities,
    }


def _run(path: StorePath) -> Summary:
    summary: Summary = {**(path / "run.json").read_json(), "kind": "run"}
    if (path / "epochs.arrow").exists():
        epochs = read_table(path / "epochs.arrow", trusted=False)
        try:
            last = [
                {key: _finite(value) for key, value in row.items()}
                for row in epochs.slice(max(0, epochs.num_rows - 1)).to_pylist()
            ]
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise DataError(
                f"{path / 'epochs.arrow'} is damaged ({error})", "train again"
            ) from error
        summary["epochs"] = {"num": epochs.num_rows, "last": last, "schema": _schema(epochs)}
    for folder in ("scores", "plans", "checkpoints"):
        summary[folder] = {
            entry.name: int(entry.info().size or 0) for entry in (path / folder).list()
        }
    summary["num_step_files"] = len((path / "steps").list())
    return summary


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON cannot express, by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _schema(table: pa.Table) -> dict[str, str]:
    return {field.name: str(field.type) for field in table.schema}


def _split_counts(splits: Mapping[str, Counter[str]]) -> Summary:
    return {
        split: {"samples": labels.total(), "labels": dict(sorted(labels.items()))}
        for split, labels in sorted(splits.items())
    }


def _num_bytes(path: StorePath) -> int:
    if path.info().type == pafs.FileType.File:
        return int(path.info().size)
    return sum(
        int(entry.size or 0)
        for entry in path.fs.get_file_info(pafs.FileSelector(path.path, recursive=True))
    )
