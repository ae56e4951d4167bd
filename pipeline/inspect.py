"""What lies at a path: shards, a feature set, scores, a plan, a run or a store, told as a JSON object."""

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

from pipeline.config import load
from pipeline.decode.config import DecodeConfig
from pipeline.errors import DataError, MissingError, SampleError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.shards.discover import ENDINGS, discover_shards, shard_names
from pipeline.shards.reader import ShardReader, only_text, read_twice
from pipeline.shards.sample_metadata import SampleMetadata, parse_metadata
from pipeline.shards.samples import RejectedSample
from pipeline.storage.arrow_files import read_table
from pipeline.storage.metadata import read_metadata
from pipeline.storage.schemas import PLAN, check_columns
from pipeline.storage.store_path import MANIFEST, StorePath
from pipeline.storage.table_checks import check_fingerprint, check_metadata

Found = dict[str, Any]
KNOWN = "give a shard, a folder of shards, a feature set, a scores or plan file, a run or a store"


def inspect(path: str | PathLike[str] | StorePath) -> Found:
    """Tells what is there, `kind` first, with counts, sizes in bytes, fingerprints and parents (raises MissingError, DataError, StoreError)."""
    store_path = StorePath.at(path)
    found = _look(store_path)
    num_bytes = found.pop("bytes", None)
    return {
        "kind": found.pop("kind"),
        "path": str(store_path),
        "bytes": _num_bytes(store_path) if num_bytes is None else num_bytes,
        **found,
    }


def _look(store_path: StorePath) -> Found:
    kind = store_path.info().type
    if kind == pafs.FileType.NotFound:
        if any(sign in store_path.name for sign in "*?["):
            return _shards(discover_shards([store_path]), None)
        raise MissingError(f"{store_path} does not exist", KNOWN)
    if kind == pafs.FileType.File:
        return (
            _shards([store_path], store_path.parent / "decode.yaml")
            if store_path.name.endswith(ENDINGS)
            else _file(store_path)
        )
    names = {entry.name for entry in store_path.list()}
    if MANIFEST in names:
        return _features(FeatureSet.open(store_path))
    if "run.json" in names:
        return _run(store_path)
    if any(name.endswith(ENDINGS) for name in names):
        return _shards(discover_shards([store_path]), store_path / "decode.yaml")
    if names & {"features", "runs"}:
        return {
            "kind": "store",
            **{
                part: [entry.name for entry in (store_path / part).list()]
                for part in ("features", "runs")
            },
        }
    raise DataError(
        f"{store_path} holds nothing that Remix knows (found {', '.join(sorted(names)[:5]) or 'nothing'})",
        f"{KNOWN}; unfinished work has no manifest yet",
    )


def _shards(shards: Sequence[StorePath], decode: StorePath | None) -> Found:
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    suffixes, kept, reasons, parts = Counter[str](), Counter[frozenset[str]](), Counter[str](), []
    for store_path, name in zip(shards, shard_names(shards), strict=True):
        told, reader = read_twice(
            store_path, partial(_Summary, store_path), load=only_text, hashed=False
        )
        for fact in told.facts:
            splits[fact.split or "none"][fact.label] += 1
        kept.update(told.kept)
        reasons.update(told.rejected)
        account = asdict(reader.account)
        parts.append(
            {
                "shard": name,
                "bytes": int(store_path.info().size),
                "samples": len(told.facts),
                "rejected": len(told.rejected),
                "account": account,
            }
        )
    for present, num in kept.items():
        suffixes.update(dict.fromkeys(present, num))
    found: Found = {
        "kind": "shards",
        "bytes": sum(part["bytes"] for part in parts),
        "num_samples": kept.total(),
        "splits": _counts(splits),
    }
    found |= {
        "members": dict(sorted(suffixes.items())),
        "num_rejected": reasons.total(),
        "rejected": dict(reasons.most_common()),
        "shards": parts,
    }
    if decode and decode.exists():
        specs = load(DecodeConfig, decode).modalities
        missing = {
            name: sum(num for present, num in kept.items() if present.isdisjoint(spec.member))
            for name, spec in specs.items()
        }
        found["modalities"] = {
            name: {"kind": spec.kind, "member": list(spec.member), "missing": missing[name]}
            for name, spec in specs.items()
        }
    return found


class _Summary:
    """What the usable samples of a shard say of themselves, how many have which suffixes, and the reasons of all that is lost or says too little."""

    def __init__(self, shard: StorePath, reader: ShardReader) -> None:
        self.facts: list[SampleMetadata] = []
        self.kept: Counter[frozenset[str]] = Counter()
        self.rejected: list[str] = []
        for item in reader:
            if isinstance(item, RejectedSample):
                self.rejected.append(item.reason)
                continue
            try:
                self.facts.append(parse_metadata(item, shard.path))
            except SampleError as error:
                self.rejected.append(error.reason)
            else:
                self.kept[item.suffixes] += 1


def _features(features: FeatureSet) -> Found:
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
        "splits": _counts(splits),
        "modalities": modalities,
        "num_rejected": manifest.get("num_rejected", 0),
        "rejected": manifest.get("reasons", {}),
        "account": _sums(part.get("account", {}) for part in manifest["parts"]),
        "schema": _schema(samples),
        "num_parts": len(manifest["parts"]),
        "fingerprint": features.fingerprint,
        "parents": manifest.get("parents"),
    }


def _sums(accounts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The accounts of all shards as one."""
    sums: Counter[str] = Counter()
    for account in accounts:
        sums.update({name: num for name, num in account.items() if isinstance(num, int)})
    return dict(sums)


def _file(store_path: StorePath) -> Found:
    table, what = read_table(store_path, trusted=False), str(store_path)
    metadata = read_metadata(table.schema, what)
    names = table.column_names
    if set(PLAN.names) <= set(names):
        told = _plan(BatchPlan.open(store_path))
    else:
        check_metadata(metadata, what)
        check_fingerprint(table.to_batches(), table.schema, metadata, what)
        told = (
            _scores(table, what)
            if any(name.startswith("kl_") for name in names)
            else {"kind": "table", "num_rows": table.num_rows}
        )
    return {
        **{key: value for key, value in metadata.items() if key not in ("path", "bytes")},
        **told,
        "schema": _schema(table),
    }


def _plan(plan: BatchPlan) -> Found:
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
        "num_rows": sum(part["rows"] for part in modalities.values()),
        "steps": modalities,
    }


def _scores(table: pa.Table, what: str) -> Found:
    abilities = {}
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if name.startswith("kl_") or name == "label":
            check_columns(table.schema, pa.schema([(name, kind)]), what)
            if not (
                pa.types.is_floating(kind) if name != "label" else pa.types.is_integer(kind)
            ) or (name == "label" and table[name].null_count):
                raise DataError(
                    f"{what}: column {name!r} is {kind} with {table[name].null_count} nulls, not a number a row",
                    "write the file again",
                )
        if name.startswith("kl_"):
            bits = table[name].to_numpy()
            present = bits[np.isfinite(bits)]
            mean = float(present.mean(dtype=np.float64)) if len(present) else None
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


def _run(store_path: StorePath) -> Found:
    found: Found = {**(store_path / "run.json").read_json(), "kind": "run"}
    if (store_path / "epochs.arrow").exists():
        epochs = read_table(store_path / "epochs.arrow", trusted=False)
        try:
            last = [
                {key: _finite(value) for key, value in row.items()}
                for row in epochs.slice(max(0, epochs.num_rows - 1)).to_pylist()
            ]
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise DataError(
                f"{store_path / 'epochs.arrow'} is damaged ({error})", "train again"
            ) from error
        found["epochs"] = {"num": epochs.num_rows, "last": last, "schema": _schema(epochs)}
    for part in ("scores", "plans", "checkpoints"):
        found[part] = {
            entry.name: int(entry.info().size or 0) for entry in (store_path / part).list()
        }
    found["num_step_files"] = len((store_path / "steps").list())
    return found


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _schema(table: pa.Table) -> dict[str, str]:
    return {field.name: str(field.type) for field in table.schema}


def _counts(splits: Mapping[str, Counter[str]]) -> Found:
    return {
        split: {"samples": labels.total(), "labels": dict(sorted(labels.items()))}
        for split, labels in sorted(splits.items())
    }


def _num_bytes(store_path: StorePath) -> int:
    if store_path.info().type == pafs.FileType.File:
        return int(store_path.info().size)
    return sum(
        int(entry.size or 0)
        for entry in store_path.fs.get_file_info(pafs.FileSelector(store_path.path, recursive=True))
    )
