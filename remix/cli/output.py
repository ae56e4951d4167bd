"""Output of commands: results as text or one line of JSON, trees, progress, and errors."""

import inspect
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any

from rich.console import Console
from rich.markdown import Markdown
from typer import Option

from pipeline.errors import ConfigError
from remix.cli.description import render

console = Console(stderr=True)
SECONDS_PER_LINE = 10.0
"""Of progress that is not shown on a terminal."""
Json = Annotated[bool, Option("--json", help="Print one line of JSON instead of text.")]
Verbose = Annotated[
    bool, Option("--verbose", "-v", help="Show log messages, and where an error was raised.")
]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Show only the result and errors.")]


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options --verbose and --quiet."""
    own = inspect.signature(command, eval_str=True)
    both = {"verbose": Verbose, "quiet": Quiet}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in both.items()
    ]

    @wraps(command)
    def run(*args: Any, verbose: bool, quiet: bool, **kwargs: Any) -> None:
        console.quiet = quiet
        logging.getLogger("remix").setLevel(logging.ERROR if quiet else logging.NOTSET)
        if verbose:
            logging.basicConfig(level=logging.INFO)
        command(*args, **kwargs)

    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, **both}
    return run


def say(result: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result as one line of JSON or as text."""
    print(json.dumps(result, ensure_ascii=False) if as_json else text)


def say_markdown(result: dict[str, Any], text: str, end: str, as_json: bool) -> None:
    """Print a result as JSON, or as Markdown, which a terminal shows as tables, and an end."""
    if as_json or not sys.stdout.isatty():
        say(result, f"{text}\n{end}", as_json)
    else:
        Console().print(Markdown(text))
        print(f"\n{end}")


def show(result: dict[str, Any], as_json: bool, **title: str) -> None:
    """Print a description as one line of JSON, or as a tree under its kind and path."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        Console().print(render({**title, **result}))


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """Show progress; yields update(done, total).

    A bar on a terminal; lines on stderr elsewhere, of JSON if REMIX_PROGRESS=json.
    """
    if os.environ.get("REMIX_PROGRESS") == "json":
        with progress_lines(title, 0.5, as_json=True) as update:
            yield update
        return
    if console.quiet:
        yield lambda done, total, **fields: None
        return
    if not console.is_terminal:
        with progress_lines(title, SECONDS_PER_LINE) as update:
            yield update
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, **fields: bar.update(task, completed=done, total=total, **fields)


@contextmanager
def progress_lines(title: str, seconds: float, *, as_json: bool = False) -> Iterator[Any]:
    """Write progress to stderr: at most a line in so many seconds.

    JSON ends with the last state; text begins after so many seconds, so that short work has none.
    """
    written_at, pending = 0.0 if as_json else time.monotonic(), ""

    def write() -> None:
        nonlocal written_at, pending
        sys.stderr.write(pending)
        sys.stderr.flush()
        written_at, pending = time.monotonic(), ""

    def update(done: int | None, total: int | None, description: str = title) -> None:
        nonlocal pending
        state = {"title": title, "done": done, "total": total, "description": description}
        text = f"{description}: {'?' if done is None else done}" + (f" of {total}" if total else "")
        pending = (json.dumps({"progress": state}) if as_json else text) + "\n"
        if time.monotonic() >= written_at + seconds:
            write()

    try:
        yield update
    finally:
        if as_json:
            write()


class Terminated(SystemExit):
    """Raised on SIGTERM."""


@contextmanager
def orderly_end() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that locks and files are cleaned up."""

    def end(number: int, frame: object) -> None:
        raise Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def pairs(values: list[str], option: str) -> dict[str, str]:
    """Parse NAME=VALUE options. Raises ConfigError."""
    mapping = dict(value.partition("=")[::2] for value in values)
    if any("=" not in value for value in values) or len(mapping) < len(values):
        raise ConfigError(
            f"invalid value: {option} {' '.join(values)!r}",
            f"use {option} NAME=VALUE, with each name only once",
        )
    return mapping
