"""A short list of expressions that readers stumbled over must not occur in code, README or docs.

It is a reminder, not a style guide: see "How to write" in CONTRIBUTING.md.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AVOIDED = re.compile(
    r"\b(told|tells|mend(s|ed|ing)?|by heart|tak(en?|es|ing) up|(is|are|was|were) there"
    r"|(lies?|stands?) (in|at|on|beside|below)|hears?|what it says|goes ill)\b",
    re.IGNORECASE,
)
PACKAGES = ("remix", "pipeline", "trainer", "service", "benchmarks", "tests")
PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "service/page/*.js", "service/page/*.html")
FILES = [
    path.relative_to(ROOT).as_posix()
    for pattern in (*(f"{package}/**/*.py" for package in PACKAGES), *PAGES)
    for path in sorted(ROOT.glob(pattern))
    if path != Path(__file__)
]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and text: strings and comments of a Python file, all lines of another file."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("package", sorted({name.split("/")[0] for name in FILES}))
def test_avoided_expressions_are_absent(package: str) -> None:
    used = [
        f"{name}:{line}: {match.group()!r} in {text[:80]!r}"
        for name in FILES
        if name.split("/")[0] == package
        for line, text in prose(ROOT / name)
        if (match := AVOIDED.search(text))
    ]
    assert not used, "\n".join(used)
