"""Commands that train and check runs: train, compare, verify, demo."""

import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from pipeline.errors import ConfigError
from remix.cli.data import decode, generate
from remix.cli.output import Json, Terminated, console, orderly_end, progress, say

if TYPE_CHECKING:
    from trainer.config import RunConfig
    from trainer.run_directory import Run


def train(
    config: Annotated[Path, Argument(help="A YAML file; - is standard input.")],
    resume: Annotated[bool, Option("--resume", help="Continue a run that exists.")] = False,
    json_: Json = False,
) -> None:
    """Train one run from a YAML file."""
    from trainer.config import load_run

    asked = load_run("/dev/stdin" if str(config) == "-" else config)
    with orderly_end():
        try:
            run = train_run(asked, resume)
        except (KeyboardInterrupt, Terminated) as error:
            cure = f"continue it with `remix train {config} --resume`"
            console.out(f"run {asked.name!r} was interrupted; {cure}", highlight=False)
            number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
            raise typer.Exit(128 + number) from None
    result = run.metadata["result"]
    say({"run": run.path.name, **result}, f"{run.path}: {summary(result)}", json_)


def summary(result: dict[str, Any]) -> str:
    """The result of a run in words."""
    accuracy = result["test_accuracy"]["fused"]
    return f"best epoch {result['best_epoch']}, test accuracy {accuracy:.4f}"


def compare(
    config: Path,
    methods: Annotated[
        str | None,
        Option(help="METHOD or METHOD:POLICY, by commas.", show_default="joint_heads,random,remix"),
    ] = None,
    tables: Annotated[
        str | None,
        Option(help="fusion, methods, mid-fusion, ablation, unimodal or policies, by commas."),
    ] = None,
    seeds: Annotated[int, Option(min=1, help="How many seeds, counted from the config's own.")] = 5,
    json_: Json = False,
) -> None:
    """Train several methods over several seeds, the same everything else; runs that are there are taken up."""
    from trainer.comparison.methods import methods_of
    from trainer.config import load_run

    result, text = _compared(load_run(config), methods_of(methods, tables), seeds)
    say(result, f"{text}\n{result['path']}", json_)


def _compared(
    base: "RunConfig", methods: Sequence[str], num_seeds: int
) -> tuple[dict[str, Any], str]:
    """A comparison, and its table."""
    from trainer.comparison.compare import compare as run
    from trainer.comparison.markdown import markdown

    seeds = range(base.seed, base.seed + num_seeds)
    result = run(base, methods, seeds, lambda each: train_run(each, resume=True))
    return result, markdown(result)


def train_run(config: "RunConfig", resume: bool) -> "Run":
    """Brings a run to its end, in this process or on Ray, with a progress bar."""
    from trainer.launch import launch

    with progress(config.name) as update:

        def show(event: dict[str, Any]) -> None:
            if event["event"] in ("takeover", "decoded"):
                console.out(f"{config.name}: {event['text']}", highlight=False)
            if event["event"] == "source":
                update(
                    event["num_done"],
                    event["num_shards"],
                    description=f"{event['stage']}: {event['num_rows']} rows; shards",
                )
            if event["event"] == "epoch":
                accuracy = event.get("validation_accuracy")
                reached = "" if accuracy is None else f": validation accuracy {accuracy:.3f}"
                update(
                    event["epoch"] + 1,
                    event["num_epochs"],
                    description=f"{config.name}{reached}; epochs",
                )

        return launch(config, resume=resume, progress=show)


def verify(
    run: Annotated[str, Argument(help="STORE/runs/NAME")],
    parts: Annotated[
        bool, Option("--parts", help="Compare the SHA-256 of every file of the features too.")
    ] = False,
    json_: Json = False,
) -> None:
    """Prove from a run's artifacts that every planned row was trained exactly once; exit code 1 where something does not hold."""
    from pipeline.storage.store_path import StorePath
    from trainer.run_directory import Run
    from trainer.verification.verify import verify as check

    opened = Run.open(StorePath.at(run))
    with progress("verify") as update:
        result = check(opened, parts=parts, progress=update)
    say(result, verify_text(result), json_)
    if not result["ok"]:
        raise typer.Exit(1)


def demo(
    store: str = "store", seeds: Annotated[int, Option(min=1)] = 3, json_: Json = False
) -> None:
    """Generate clips, decode them, train joint_heads, random and remix on a small budget, and compare."""
    from pipeline.config import parse
    from pipeline.storage.store_path import without_secrets
    from trainer.config import RunConfig

    if "://" in store:
        raise ConfigError(
            f"--store is {without_secrets(store)!r}",
            "give a folder: generated shards are written to a local disk",
        )
    shards, features = Path(store) / "shards" / "demo", Path(store) / "features" / "demo"
    with redirect_stdout(sys.stderr):
        if not shards.exists():
            generate(shards)
        decode([str(shards)], str(features))
    small = {
        "train": {"epochs": 12, "warmup_epochs": 4, "batch_size": 32},
        "resources": {"cpus_per_worker": 2},
    }
    config = parse(RunConfig, {"name": "demo", "features": "demo", "store": store, **small}, "demo")
    result, text = _compared(config, ["joint_heads", "random", "remix"], seeds)
    where = f"Everything lies in {store}: shards/demo, features/demo, runs/demo-*, comparisons/demo. `remix serve --store {store}` shows it."
    say(result, f"{text}\n{where}", json_)


def verify_text(result: dict[str, Any]) -> str:
    """What was found, for a person: a line an epoch, a line a problem, and the sum of it."""
    lines = [
        f"epoch {each['epoch']}: {each['steps']} steps, {each['rows']} rows, {each['taken']} taken{'' if each['ok'] else ': NOT AS IT SHOULD BE'}"
        for each in result["epochs"]
    ]
    lines += [f"{each['artifact']}: {each['what']}" for each in result["problems"]]
    num = len(result["problems"])
    sum_ = "everything holds" if result["ok"] else f"{num} problem{'s' if num > 1 else ''}"
    lines += [
        f"{result['run']} ({result['status']}), {len(result['epochs'])} of {result['num_epochs']} epochs: {sum_}"
    ]
    return "\n".join(lines)
