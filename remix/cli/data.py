"""Commands on data: generate, decode, lint, repair, inspect."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from remix.cli.output import Json, progress, say, show

Shards = Annotated[list[str], Argument(help="Shards (.tar), folders of shards, or globs.")]

ReadConfig = Annotated[
    Path | None, Option(help="A DecodeConfig in YAML; by default decode.yaml beside the shards.")
]


def generate(
    out: Path,
    samples: int = 480,
    classes: int = 6,
    shards: int = 4,
    seed: int = 0,
    modalities: Annotated[
        str, Option(help="Two or more of audio, video, image, tensor, text.")
    ] = "audio,video",
    validation_share: float = 0.15,
    test_share: float = 0.15,
    json_: Json = False,
) -> None:
    """Make real encoded clips (H.264 + AAC in MP4) as WebDataset shards."""
    from pipeline.sources.synthetic.generate import generate as run

    shares = (1 - validation_share - test_share, validation_share, test_share)
    with progress("generate") as update:
        result = run(
            out,
            samples=samples,
            classes=classes,
            shards=shards,
            seed=seed,
            modalities=tuple(modalities.split(",")),
            shares=shares,
            progress=update,
        )
    say(result, f"{samples} samples of {classes} classes in {shards} shards: {out}", json_)


def decode(
    shards: Shards,
    out: Annotated[str, Option(help="STORE/features/NAME")],
    config: Annotated[
        Path | None,
        Option(help="A DecodeConfig; by default decode.yaml beside the shards, else inferred."),
    ] = None,
    max_rejected_share: Annotated[
        float | None, Option(help="Fail above this share; by default as the config says (0.01).")
    ] = None,
    address: Annotated[str | None, Option(help="A Ray cluster; by default this machine.")] = None,
    json_: Json = False,
) -> None:
    """Decode shards into per-modality feature tables (Ray Data)."""
    from pipeline.config import load, parse
    from pipeline.decode.config import DecodeConfig
    from pipeline.shards.discover import discover_shards
    from pipeline.storage.store_path import StorePath, without_secrets

    found = discover_shards(shards)
    given = load(DecodeConfig, config) if config else None
    from pipeline.decode.job import decode as run
    from pipeline.decode.preflight import infer_config
    from pipeline.decode.summary import Progress

    asked = given or infer_config(found)
    if max_rejected_share is not None:
        fields = {**asked.model_dump(), "max_rejected_share": max_rejected_share}
        asked = parse(DecodeConfig, fields, "--max-rejected-share")

    with progress("scan") as update:

        def tell(at: Progress) -> None:
            update(
                at.num_done,
                at.num_shards,
                description=f"{at.stage}: {at.num_rows} rows, {at.num_rejected} rejected; shards",
            )

        result = run(found, StorePath.at(out), asked, address=address, progress=tell)
    kept = f"{result.num_reused} of {result.num_shards} shards were decoded before"
    if result.unchanged:
        kept = "was there already"
    line = f"{result.text}: {without_secrets(out)} ({kept}; fingerprint {result.fingerprint[:12]})"
    say(asdict(result), "\n".join([*result.notes, line]), json_)


def lint(shards: Shards, config: ReadConfig = None, json_: Json = False) -> None:
    """Read shards without decoding and name all that is lost in them; exit code 1 where anything is."""
    from pipeline.shards.discover import discover_shards
    from pipeline.shards.lint import lint as run

    found = discover_shards(shards)
    with progress("lint") as update:
        result = run(found, progress=update, **reading(config, found))
    say(result, lint_text(result), json_)
    if result["num_lost"]:
        raise typer.Exit(1)


def repair(
    shards: Shards,
    out: Annotated[str, Option(help="A folder for the clean shards.")],
    config: ReadConfig = None,
    json_: Json = False,
) -> None:
    """Write clean shards of all samples that are whole, and name what they lack."""
    from pipeline.shards.discover import discover_shards
    from pipeline.shards.lint import repair as run
    from pipeline.storage.store_path import StorePath

    found = discover_shards(shards)
    with progress("repair") as update:
        result = run(found, StorePath.at(out), progress=update, **reading(config, found))
    say(result, lint_text(result), json_)


def reading(config: Path | None, shards: list[Any]) -> dict[str, Any]:
    """How shards are read: with the limits and members of a configuration, where there is one."""
    from pipeline.config import load
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.preflight import config_beside

    found = load(DecodeConfig, config) if config else config_beside(shards)
    return {"limits": found.limits, "known": found.members} if found else {}


def inspect(path: str, json_: Json = False) -> None:
    """Show what is in a shard, a feature set, a scores or plan file, or a run."""
    from pipeline.inspect import inspect as run

    show(run(path), json_)


def lint_text(found: dict[str, Any]) -> str:
    """A report in words, one line a loss, and the sums last."""
    lines = []
    for shard in found["shards"]:
        name = shard["shard"]
        lines += [
            f"{name}: {loss['member'] or 'shard'} at byte {loss['offset']}: {loss['reason']}: {loss['detail']}"
            for loss in shard["lost"]
        ]
        lines += [
            f"{name}: sample {key}: its members lie apart, and were put together"
            for key in shard["regrouped"]
        ]
        lines += [
            f"{name}: sample {one['key']} will not decode: {one['reason']}: {one['detail']}"
            for one in shard["unusable"]
        ]
    reasons = ", ".join(f"{reason} {num}" for reason, num in found["reasons"].items())
    end = f"{found['samples_kept']} samples kept in {len(found['shards'])} shards, {found['num_lost']} losses"
    if reasons:
        end += f" ({reasons})"
    if num := found["num_regrouped"]:
        end += f", {num} samples that lie apart put together"
    if num := found["num_unusable"]:
        end += f", {num} samples that will not decode"
    if "out" in found:
        end += f": {found['out']}"
    return "\n".join([*lines, end])
