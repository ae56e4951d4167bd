"""A griffe extension: the code below `Example:` in a docstring is shown as code."""

import re
from textwrap import indent
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^(?P<title>Examples?:)\n(?P<code>(?:[ \t]+\S.*\n?|\n)+)", re.MULTILINE)


def fenced(docstring: str) -> str:
    """A docstring with its example in a code fence."""

    def fence(match: re.Match[str]) -> str:
        code = re.sub(r"^ {4}", "", match["code"].rstrip(), flags=re.MULTILINE)
        return f"{match['title']}\n" + indent(f"```python\n{code}\n```\n", "    ")

    return docstring if "```" in docstring else EXAMPLE.sub(fence, docstring)


class DocstringExamples(Extension):
    """Fences the examples of all objects that are loaded."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
