"""Reading the documentation: pages, tables, code blocks, and the script that writes references."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PAGES = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load(ROOT / "docs" / "reference.py")


def section(text: str, title: str) -> str:
    """The part of a page below a heading, up to the next one of the same level."""
    return text.split(f"\n{title}\n")[1].split(f"\n{title.split()[0]} ")[0]


def table_rows(text: str) -> dict[str, list[str]]:
    """The rows of a text's tables by their first cell, which is code and unique."""
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    assert len({row[0] for row in cells}) == len(cells)
    return {row[0].strip("`"): row for row in cells}


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def console_lines(text: str) -> Iterator[tuple[str, str]]:
    """The mark of a console block, and each of its commands on one line."""
    for mark, block in re.findall(
        r"^```console(?: (\w+))?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield mark, line
