"""Shards -> feature tables on Ray Data: one task a shard, and the manifest last."""

import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
import ray.data

from pipeline import errors
from pipeline.decode.config import DecodeConfig
from pipeline.decode.finish import finish, rejected_rows
from pipeline.decode.media.shapes import shape_of
from pipeline.decode.preflight import check
from pipeline.decode.reuse import lifted, lowered, same
from pipeline.decode.shard_task import VERSION, ShardJob, ShardScan, ingest, scan_shard
from pipeline.decode.summary import DecodeSummary, Progress, summary_of
from pipeline.errors import BudgetError, MismatchError, RemixError, StoreError
from pipeline.ray_cluster import connect, require
from pipeline.shards.discover import shard_names
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import fingerprint_of
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import MANIFEST, StorePath


def decode(
    shards: Sequence[StorePath],
    out: StorePath,
    config: DecodeConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    address: str | None = None,
    num_cpus: int | None = None,
    concurrency: int | None = None,
    resources: Mapping[str, float] | None = None,
) -> DecodeSummary:
    """Decodes shards into the feature set `out`; finished parts are kept (raises InputError before anything is written, BudgetError).

    A task takes one CPU, and of Ray's custom `resources` what is said there, so that only nodes that offer them decode.
    """
    connect(address, num_cpus)
    require("decode tasks", 1, 0, resources)
    tell = progress or (lambda _: None)
    names = shard_names(shards)
    asked = {"concurrency": concurrency, "resources": dict(resources or {})}
    scans = _scan(shards, names, config, tell, asked)
    parents = {"shards": fingerprint_of([[scan.name, scan.digest] for scan in scans])}
    classes = check(scans, config)
    specs = {
        name: {
            "shape": list(shape_of(name, spec)[0]),
            "dtype": shape_of(name, spec)[1],
            "kind": spec.kind,
            "spec": spec.model_dump(mode="json"),
        }
        for name, spec in config.modalities.items()
    }
    finished = _finished(out, scans, parents, config, classes)
    if finished:
        return summary_of(finished, num_reused=len(shards), unchanged=True)
    with (out / ".parts" / ".lock").held(f"{out} is being decoded") as dead:
        for folder in (out, out / ".parts", *(out / name for name in specs)):
            folder.sweep()
        # its parts are about to change: nobody may take the set for finished
        (out / MANIFEST).delete()
        _started(out).write_bytes(b"")
        jobs = [
            ShardJob(
                shard=shard,
                name=scan.name,
                digest=scan.digest,
                torn=scan.torn,
                index=i,
                out=out,
                config=config,
            )
            for i, (shard, scan) in enumerate(zip(shards, scans, strict=True))
        ]
        num_reused = _ingest(jobs, scans, config, tell, asked)
        manifest = finish(out, jobs, config, classes, specs, parents)
    takeover = [f"took over from {dead}, which ended without a word"] if dead else []
    return summary_of(manifest, num_reused=num_reused, unchanged=False, notes=takeover)


def _scan(
    shards: Sequence[StorePath],
    names: Sequence[str],
    config: DecodeConfig,
    tell: Callable[[Progress], None],
    asked: dict[str, Any],
) -> list[ShardScan]:
    scans: dict[int, ShardScan] = {}
    num_rows = num_lost = 0
    for i, found in _each(
        lambda i: asdict(scan_shard(shards[i], names[i], config)), len(shards), asked
    ):
        scan = scans[i] = ShardScan(**found)
        num_rows, num_lost = num_rows + scan.samples.num_rows, num_lost + scan.num_lost
        tell(
            Progress(
                stage="scan",
                num_done=len(scans),
                num_shards=len(shards),
                num_rows=num_rows,
                num_rejected=num_lost,
            )
        )
    return [scans[i] for i in range(len(shards))]


def _ingest(
    jobs: Sequence[ShardJob],
    scans: Sequence[ShardScan],
    config: DecodeConfig,
    tell: Callable[[Progress], None],
    asked: dict[str, Any],
) -> int:
    """Runs the jobs and returns how many were finished before; stops as soon as the budget of rejected samples is spent."""
    budget = config.max_rejected_share * sum(
        scan.samples.num_rows + scan.num_lost for scan in scans
    )
    num_done = num_rows = num_reused = 0
    reasons: Counter[str] = Counter()
    for _, (rows, reused, rejected) in _each(lambda i: _outcome(jobs[i]), len(jobs), asked):
        num_done, num_rows, num_reused = num_done + 1, num_rows + rows, num_reused + reused
        reasons.update(rejected)
        tell(
            Progress(
                stage="decode",
                num_done=num_done,
                num_shards=len(jobs),
                num_rows=num_rows,
                num_rejected=reasons.total(),
            )
        )
        if reasons.total() > budget:
            what = ", ".join(f"{reason} {num}" for reason, num in reasons.most_common())
            where = jobs[0].out / "rejected.arrow"
            write_table(
                where,
                pa.Table.from_pylist(
                    [
                        row
                        for job in jobs
                        if job.account.exists()
                        for row in rejected_rows(job, job.account.read_json())
                    ],
                    REJECTED,
                ),
            )
            raise BudgetError(
                f"{reasons.total()} samples rejected against {num_rows} kept after {num_done} of {len(jobs)} shards ({what}),"
                f" more than max_rejected_share {config.max_rejected_share}",
                f"mend the shards ({where} names each sample) or raise max_rejected_share; finished parts are kept",
            )
    return num_reused


def _outcome(job: ShardJob) -> tuple[int, bool, list[str]]:
    if not _started(job.out).exists():
        raise StoreError(
            f"{job.out} is not seen from the node {platform.node()}",
            "decode into a place that all nodes of the cluster share",
        )
    account = ingest(job)
    return account["rows"], account["reused"], [row["reason"] for row in account["rejected"]]


def _started(out: StorePath) -> StorePath:
    return out / ".parts" / "started"


def _each(work: Callable[[int], Any], num: int, asked: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Calls `work` for 0..num-1 in Ray Data tasks and yields (number, result) as they come; a result is a JSON value, and errors of ours keep their class."""

    def task(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"number": row["number"], "result": json.dumps(work(row["number"])), "error": ""}
        except RemixError as error:
            return {"number": row["number"], "result": str(error), "error": type(error).__name__}

    dataset = ray.data.from_items([{"number": i} for i in range(num)], override_num_blocks=num).map(
        task, **asked
    )
    for row in dataset.iter_rows():
        if row["error"]:
            raise getattr(errors, row["error"])(row["result"])
        yield row["number"], json.loads(row["result"])


def _finished(
    out: StorePath,
    scans: Sequence[ShardScan],
    parents: dict[str, str],
    config: DecodeConfig,
    classes: Sequence[str],
) -> dict[str, Any] | None:
    """The manifest of a set that is complete as it is; None where there is something to decode (raises MismatchError)."""
    if not (out / MANIFEST).exists():
        return None
    manifest = (out / MANIFEST).read_json()
    cure = "give another --out, or delete this feature set"
    if manifest["version"] != VERSION:
        raise MismatchError(
            f"{out} was decoded by version {manifest['version']} of the decoder, this is {VERSION}",
            cure,
        )
    was, specs = manifest["modalities"], config.modalities
    for name in dict.fromkeys([*was, *specs]):
        if name not in was or name not in specs or not same(specs[name], was[name]["spec"]):
            raise MismatchError(
                f"{out} was decoded with modalities.{name} = {was.get(name, {}).get('spec')}, but the configuration says {specs.get(name)!r}",
                cure,
            )
    for name in lowered(config.limits, manifest["limits"]):
        raise MismatchError(
            f"{out} was decoded with limits.{name} = {manifest['limits'].get(name)}, but the configuration says {getattr(config.limits, name)}, which may reject more",
            cure,
        )
    if list(was) != list(specs) or manifest["classes"] != list(classes):
        raise MismatchError(
            f"{out} has the modalities {list(was)} and classes {manifest['classes']}, not {list(specs)} and {list(classes)}",
            cure,
        )
    again = not lifted(config.limits, manifest["limits"]).isdisjoint(manifest["reasons"])
    # a member beyond a limit is in a shard's digest by its header alone
    names = [part["shard"] for part in manifest["parts"]] if again else None
    if manifest["parents"]["shards"] != parents["shards"] and names != [s.name for s in scans]:
        raise MismatchError(
            f"{out} was decoded from the shards {manifest['parents']['shards'][:12]}, but the ones given are {parents['shards'][:12]}",
            cure,
        )
    return None if again else manifest
