"""Descriptions as text: a tree in which parts of the same form are tables, with rounded numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import ROUNDED
from rich.columns import Columns
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

MAX_VALUES = 8
"""Longer lists of numbers are shown by their first and the last; --json prints all."""
MAX_ROWS = 64
"""Longer tables are shown by their first rows, longer lists of names as those of numbers."""


def render(description: Mapping[str, Any]) -> Tree:
    """Render an object as a tree; what is empty is left out."""
    tree = Tree(f"[bold]{description['kind']}[/bold] {escape(description['path'])}")
    _grow(tree, {key: value for key, value in description.items() if key not in ("kind", "path")})
    return tree


def _grow(tree: Tree, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if value is None or value in ("", [], {}):
            continue
        title = f"[cyan]{escape(key)}[/cyan]"
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
            value = value[0]
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            tree.add(title).add(_table(value))
        elif not isinstance(value, Mapping):
            tree.add(f"{title}  {_text(value, key)}")
        elif _is_table(value):
            tree.add(title).add(_named_table(value))
        elif any(isinstance(inner, Mapping | list) for inner in value.values()):
            _grow(tree.add(title), value)
        elif len(value) > MAX_VALUES:
            tree.add(title).add(_columns(value))
        else:
            tree.add(f"{title}  {', '.join(_items(value))}")


def _is_table(value: Mapping[str, Any]) -> bool:
    """Whether the entries of a mapping are mappings of plain values, with the same names."""
    rows = list(value.values())
    return all(
        isinstance(row, Mapping)
        and list(row) == list(rows[0])
        and not any(isinstance(cell, Mapping) for cell in row.values())
        for row in rows
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table of equal rows. Cells that are mappings are left out."""
    names = [name for name, cell in rows[0].items() if not isinstance(cell, Mapping)]
    table = Table(*map(escape, names), box=ROUNDED, caption=_rest(len(rows), "rows"))
    for row in rows[:MAX_ROWS]:
        table.add_row(*(_text(row.get(name), name) for name in names))
    return table


def _named_table(value: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of named rows, whose names are the columns if that is narrower."""
    first = list(next(iter(value.values())))
    if len(value) < len(first):
        return _table(
            [{"": key} | {name: row[key] for name, row in value.items()} for key in first]
        )
    return _table([{"": name} | dict(row) for name, row in value.items()])


def _columns(value: Mapping[str, Any]) -> Columns:
    shown = dict(list(value.items())[:MAX_ROWS])
    return Columns([*_items(shown), *filter(None, [_rest(len(value), "entries")])], padding=(0, 2))


def _rest(num: int, what: str) -> str | None:
    return f"... of {num} {what}" if num > MAX_ROWS else None


def _items(value: Mapping[str, Any]) -> list[str]:
    return [
        f"{escape(name)} {_text(inner, name)}" for name, inner in value.items() if inner is not None
    ]


def _text(value: Any, key: str = "") -> str:
    """A value as markup, such as 0.1235 for 0.123456, and 1.2 MB for 1234567 bytes."""
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        most = MAX_ROWS if isinstance(value[0], str) else MAX_VALUES
        few = value if len(value) <= most else [*value[: MAX_VALUES // 2], "...", value[-1]]
        num = f" ({len(value)} values)" if len(few) < len(value) else ""
        return ", ".join(map(_text, few)) + num
    if isinstance(value, float):
        return f"{value:.4g}"
    if key == "bytes":
        return decimal(value)
    return escape(str(value))
