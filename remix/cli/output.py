"""Output of commands: results as text or one line of JSON, trees, progress, and errors."""

import inspect
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree
from typer import Option

from pipeline.errors import ConfigError

console = Console(stderr=True)
Json = Annotated[bool, Option("--json", help="Print one line of JSON instead of text.")]
Verbose = Annotated[
    bool, Option("--verbose", "-v", help="Show log messages, and where an error was raised.")
]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Show only the result and errors.")]
MAX_SHOWN = 64
"""Longer lists are shown by their first and last items; --json prints them completely."""


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


def show(result: dict[str, Any], as_json: bool, **title: str) -> None:
    """Print a description as one line of JSON, or as a tree under its kind and path."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        Console().print(render({**title, **result}))


def render(description: Mapping[str, Any]) -> Tree:
    """Render an object as a tree; an object of plain values takes one line."""
    tree = Tree(f"[bold]{description['kind']}[/bold] {escape(description['path'])}")
    _grow(tree, {key: value for key, value in description.items() if key not in ("kind", "path")})
    return tree


def _grow(tree: Tree, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        title = f"[cyan]{escape(key)}[/cyan]"
        nested = isinstance(value, Mapping) and any(
            isinstance(inner, Mapping | list) for inner in value.values()
        )
        if nested:
            _grow(tree.add(title), value)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            branch = tree.add(title)
            for inner in value:
                branch.add(_line(inner))
        else:
            tree.add(f"{title}  {_line(value)}")


def _line(value: Any) -> str:
    if isinstance(value, list) and len(value) > MAX_SHOWN:
        ends = f"{', '.join(map(str, value[:8]))}, ..., {value[-1]}"
        return escape(f"[{ends}] ({len(value)} values)")
    if isinstance(value, Mapping):
        return escape(", ".join(f"{name} {inner}" for name, inner in value.items()))
    return escape(str(value))


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """Show progress; yields update(done, total).

    A bar on a terminal, or lines of JSON on stderr if REMIX_PROGRESS=json.
    """
    if os.environ.get("REMIX_PROGRESS") == "json":
        with progress_lines(title) as update:
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
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, **fields: bar.update(task, completed=done, total=total, **fields)


@contextmanager
def progress_lines(title: str) -> Iterator[Any]:
    """Write progress to stderr as JSON, at most two lines per second, and always the last."""
    written_at, pending = 0.0, ""

    def write() -> None:
        nonlocal written_at, pending
        sys.stderr.write(pending)
        sys.stderr.flush()
        written_at, pending = time.monotonic(), ""

    def update(done: int | None, total: int | None, description: str = title) -> None:
        nonlocal pending
        state = {"title": title, "done": done, "total": total, "description": description}
        pending = json.dumps({"progress": state}) + "\n"
        if time.monotonic() >= written_at + 0.5:
            write()

    try:
        yield update
    finally:
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
