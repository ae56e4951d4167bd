"""What commands print: results as text or one line of JSON, trees, progress, and errors."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree
from typer import Option

from pipeline.errors import ConfigError

console = Console(stderr=True)
Json = Annotated[bool, Option("--json", help="Print one line of JSON instead of text.")]
MAX_SHOWN = 64
"""A longer list is shown by its ends; the JSON has all of it."""


def say(result: dict[str, Any], text: str, as_json: bool) -> None:
    """Ends a command: one line of JSON, or the text."""
    print(json.dumps(result, ensure_ascii=False) if as_json else text)


def show(result: dict[str, Any], as_json: bool, **title: str) -> None:
    """Ends a command that shows what is in something: one line of JSON, or a tree under its kind and path."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        Console().print(render({**title, **result}))


def render(found: Mapping[str, Any]) -> Tree:
    """An object as a tree for a terminal; an object of plain values is one line."""
    tree = Tree(f"[bold]{found['kind']}[/bold] {escape(found['path'])}")
    _grow(tree, {key: value for key, value in found.items() if key not in ("kind", "path")})
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
    """A progress bar on a terminal, lines of JSON for who asks by REMIX_PROGRESS=json: yields update(done, total)."""
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
        yield lambda done, total, **facts: bar.update(task, completed=done, total=total, **facts)


@contextmanager
def progress_lines(title: str) -> Iterator[Any]:
    """Progress for a program, on stderr: at most two lines of JSON a second, and always the last."""
    told_at, waiting = 0.0, ""

    def tell() -> None:
        nonlocal told_at, waiting
        sys.stderr.write(waiting)
        sys.stderr.flush()
        told_at, waiting = time.monotonic(), ""

    def update(done: int | None, total: int | None, description: str = title) -> None:
        nonlocal waiting
        at = {"title": title, "done": done, "total": total, "description": description}
        waiting = json.dumps({"progress": at}) + "\n"
        if time.monotonic() >= told_at + 0.5:
            tell()

    try:
        yield update
    finally:
        tell()


class Terminated(SystemExit):
    """The end on SIGTERM."""


@contextmanager
def orderly_end() -> Iterator[None]:
    """Makes SIGTERM an exception, so that what is under way is left as after any other."""

    def end(number: int, frame: object) -> None:
        raise Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def pairs(values: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping (raises ConfigError)."""
    found = dict(value.partition("=")[::2] for value in values)
    if any("=" not in value for value in values) or len(found) < len(values):
        raise ConfigError(
            f"{option} {' '.join(values)!r}",
            f"give each as {option} NAME=VALUE, and each name once",
        )
    return found
