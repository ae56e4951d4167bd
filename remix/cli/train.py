"""Commands that train and check runs: train, compare, verify, demo."""

import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from pipeline.config import read_yaml
from pipeline.errors import ConfigError
from pipeline.storage.store_path import without_secrets
from remix.cli.data import decode, generate
from remix.cli.names import NameStore
from remix.cli.output import (
    Json,
    Terminated,
    console,
    orderly_end,
    pairs,
    progress,
    say,
    say_markdown,
)

if TYPE_CHECKING:
    from trainer.comparison.budget import BudgetKind
    from trainer.comparison.tuning import Tuning
    from trainer.config import RunConfig
    from trainer.run_directory import Run


SetValues = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Another value of a field of the file, as in YAML, such as train.epochs=1. "
        "Repeat it for several fields.",
        show_default=False,
    ),
]
RunStore = Annotated[
    str | None,
    Option(
        help="Folder or pyarrow.fs URI of features and runs; the same as --set store=...",
        show_default="as in the file",
    ),
]


def run_config_of(config: Path, values: list[str] | None, store: str | None) -> "RunConfig":
    """A run's YAML file with the values of --set and --store. Raises ConfigError, MissingError."""
    from trainer.config import load_run

    fields: dict[str, Any] = {
        path: read_yaml(text, f"--set {path}={text}")
        for path, text in pairs(values or [], "--set").items()
    }
    if store is not None:
        fields["store"] = store
    return load_run("/dev/stdin" if str(config) == "-" else config, fields)


def train(
    config: Annotated[Path, Argument(help="YAML file; - reads standard input.")],
    set_: SetValues = None,
    store: RunStore = None,
    resume: Annotated[bool, Option("--resume", help="Continue an existing run.")] = False,
    json_: Json = False,
) -> None:
    """Train one run from a YAML file."""
    run_config = run_config_of(config, set_, store)
    with orderly_end():
        try:
            run = train_run(run_config, resume)
        except (KeyboardInterrupt, Terminated) as error:
            options = [f"--set {value}" for value in map(shlex.quote, set_ or [])]
            options += [f"--store {shlex.quote(without_secrets(store))}"] if store else []
            cure = f"Continue it with `remix train {' '.join([str(config), *options])} --resume`."
            console.out(f"Run {run_config.name!r} was interrupted. {cure}", highlight=False)
            number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
            raise typer.Exit(128 + number) from None
    result = run.metadata["result"]
    text = f"{run.path}: {summary(result, run_config)}"
    say({"run": run.path.name, **result}, text, json_)


def summary(result: dict[str, Any], config: "RunConfig") -> str:
    """Summarize the result of a run: its tested epoch and accuracies."""
    epoch, assembled = result["best_epoch"], result.get("assembled")
    warmup = " (in the warm-up)" if epoch < config.train.warmup_epochs else ""
    text = f"tested epoch {epoch}{warmup}, test accuracy {result['test_accuracy']['fused']:.4f}"
    if assembled:
        accuracy = assembled["test_accuracy"]["fused"]
        text += f", assembled {accuracy:.4f} ({assembled['readout']})"
    if (stopped := result.get("stopped_epoch")) is not None:
        text += f"; ended after epoch {stopped} (patience {config.train.patience})"
    return text


def compare(
    config: Annotated[
        Path, Argument(help="YAML file of the runs' configuration; - reads standard input.")
    ],
    set_: SetValues = None,
    store: RunStore = None,
    methods: Annotated[
        str | None,
        Option(
            help="METHOD or METHOD:POLICY, comma-separated. unimodal is always added.",
            show_default="joint_heads,random,remix",
        ),
    ] = None,
    tables: Annotated[
        str | None,
        Option(
            help="Predefined sets of methods, comma-separated: fusion, methods, mid-fusion, "
            "ablation, unimodal, policies."
        ),
    ] = None,
    seeds: Annotated[int, Option(min=1, help="Number of seeds, from the configuration's on.")] = 5,
    tune: Annotated[
        list[str] | None,
        Option(
            help="FIELD=VALUE,VALUE,...: choose a field of the configuration for each method by "
            "validation, such as optimizer.lr=1e-4,3e-4,1e-3. Repeat it for a grid.",
            show_default=False,
        ),
    ] = None,
    tune_seeds: Annotated[
        int, Option(min=1, help="Number of seeds to choose with; the table does not use them.")
    ] = 2,
    budget: Annotated[
        Literal["epochs", "flops", "seconds"],
        Option(
            help="What every run may spend: its epochs, or as many FLOPs or seconds as the "
            "reference with the same seed."
        ),
    ] = "epochs",
    jobs: Annotated[int, Option(min=1, help="Number of runs trained at the same time.")] = 1,
    json_: Json = False,
) -> None:
    """Train several methods over several seeds and compare them. Existing runs are reused.

    Prints the test accuracies and a verdict; comparisons/NAME in the store has all tables.
    """
    from trainer.comparison.methods import methods_of
    from trainer.comparison.tuning import tuning_of

    base = run_config_of(config, set_, store)
    own_seeds = range(base.seed, base.seed + seeds)
    tuning = tuning_of(_values(tune or []), own_seeds, tune_seeds)
    result, text = _compared(base, methods_of(methods, tables), own_seeds, tuning, budget, jobs)
    say_markdown(result, text, result["place"], json_)


def _values(options: list[str]) -> dict[str, list[Any]]:
    """Parse FIELD=VALUE,VALUE,... options; values are YAML. Raises ConfigError."""
    return {
        path: read_yaml(f"[{text}]", f"--tune {path}={text}")
        for path, text in pairs(options, "--tune").items()
    }


def _compared(
    base: "RunConfig",
    methods: Sequence[str],
    seeds: Sequence[int],
    tuning: "Tuning | None" = None,
    budget: "BudgetKind" = "epochs",
    jobs: int = 1,
) -> tuple[dict[str, Any], str]:
    """Run a comparison; returns it, and its table of results with the verdict."""
    from trainer.comparison.compare import compare as run
    from trainer.comparison.parallel import train_at_once
    from trainer.comparison.tables import summary

    def train_ahead(configs: "Sequence[RunConfig]") -> None:
        if jobs > 1:
            with progress("train") as update:
                train_at_once(
                    configs, jobs, lambda done, num: update(done, num, description="train; runs")
                )

    def train_one(config: "RunConfig") -> "Run":
        return train_run(config, resume=True)

    result = run(base, methods, seeds, train_one, tuning, budget, train_ahead)
    return result, summary(result)


def train_run(config: "RunConfig", resume: bool) -> "Run":
    """Train a run to its end, in this process or on Ray, with a progress bar."""
    from trainer.launch import launch

    with progress(config.name) as update:

        def show(event: dict[str, Any]) -> None:
            if event["event"] in ("takeover", "decoded", "note"):
                console.out(f"{config.name}: {event['text']}", highlight=False)
            if event["event"] == "source":
                update(
                    event["num_done"],
                    event["num_shards"],
                    description=f"{event['stage']}: {event['num_rows']} rows; shards",
                )
            if event["event"] == "epoch":
                accuracy = event.get("validation_accuracy")
                suffix = "" if accuracy is None else f": validation accuracy {accuracy:.3f}"
                update(
                    event["epoch"] + 1,
                    event["num_epochs"],
                    description=f"{config.name}{suffix}; epochs",
                )

        return launch(config, resume=resume, progress=show)


def verify(
    run: Annotated[str, Argument(help="Name of a run, or STORE/runs/NAME.")],
    store: NameStore = None,
    parts: Annotated[
        bool, Option("--parts", help="Also check the SHA-256 of every file of the features.")
    ] = False,
    json_: Json = False,
) -> None:
    """Verify from a run's artifacts that every planned row was trained exactly once.

    Exits 1 if a check fails.
    """
    from pipeline.storage.store_path import StorePath
    from pipeline.store_names import path_of
    from trainer.run_directory import Run
    from trainer.verification.verify import verify as check

    opened = Run.open(StorePath.at(path_of(run, "runs", store=store)))
    with progress("verify") as update:
        result = check(opened, parts=parts, progress=update)
    say(result, verify_text(result), json_)
    if not result["ok"]:
        raise typer.Exit(1)


def demo(
    store: Annotated[str, Option(help="Folder for all results.")] = "store",
    seeds: Annotated[int, Option(min=1, help="Number of seeds.")] = 3,
    json_: Json = False,
) -> None:
    """Run a small example: generate clips, decode them, train methods, and compare.

    The clips have profile `slow`, on which joint training fails: see `remix generate --help`.
    """
    from pipeline.config import parse
    from trainer.config import RunConfig

    if "://" in store:
        raise ConfigError(
            f"--store is not a local folder: {without_secrets(store)!r}",
            "pass a folder: generated shards are written to a local disk",
        )
    shards, features = Path(store) / "shards" / "demo", Path(store) / "features" / "demo"
    with redirect_stdout(sys.stderr):
        if not shards.exists():
            generate(shards, profile="slow")
        decode([str(shards)], str(features))
    fields = {"name": "demo", "features": "demo", "store": store, **DEMO}
    result, text = _compared(
        parse(RunConfig, fields, "demo"), ["joint_heads", "random", "remix"], range(seeds), jobs=2
    )
    where = f"All tables: {result['place']}/table.md\nShow the runs: remix serve --store {store}"
    say_markdown(result, f"{text}\n{_shares(result)}\n", where, json_)


DEMO: dict[str, Any] = {
    "model": {
        "encoders": {"audio": {"kind": "mlp"}, "video": {"kind": "cnn", "width": 8}},
    },
    "optimizer": {"decay": 1.0},
    "train": {"epochs": 14, "warmup_epochs": 2, "batch_size": 32},
}
"""Settings of the runs of the demo."""


def _shares(result: dict[str, Any]) -> str:
    """What `remix` trained in its first and in its last epoch after the warm-up."""
    from pipeline.storage.arrow_files import read_table
    from pipeline.storage.store_path import StorePath

    rows = read_table(StorePath.at(result["place"]) / "curves.arrow").to_pylist()
    own = [row for row in rows if row["method"] == "remix" and row["policy"] != "joint"]
    names = [key.removeprefix("share_") for key in own[0] if key.startswith("share_")]
    parts = []
    for epoch in (min(row["epoch"] for row in own), max(row["epoch"] for row in own)):
        chosen = [row for row in own if row["epoch"] == epoch]
        shares = {name: sum(row[f"share_{name}"] or 0 for row in chosen) for name in names}
        listed = ", ".join(f"{name} {share / len(chosen):.0%}" for name, share in shares.items())
        parts.append(f"epoch {epoch}: {listed}")
    return f"Share of the samples that remix used to train each modality, {'; '.join(parts)}."


def verify_text(result: dict[str, Any]) -> str:
    """Format a verification: one line per epoch, one per problem, then the total."""
    lines = [
        f"epoch {epoch['epoch']}: {epoch['steps']} steps, {epoch['rows']} rows, "
        f"{epoch['taken']} trained{'' if epoch['ok'] else ': FAILED'}"
        for epoch in result["epochs"]
    ]
    lines += [f"{problem['artifact']}: {problem['what']}" for problem in result["problems"]]
    num = len(result["problems"])
    outcome = "all checks passed" if result["ok"] else f"{num} problem{'s' if num > 1 else ''}"
    lines += [
        f"{result['run']} ({result['status']}), "
        f"{len(result['epochs'])} of {result['num_epochs']} epochs: {outcome}"
    ]
    return "\n".join(lines)
