"""Examples of responses in the OpenAPI document: real ones, shortened by docs/examples.py."""

import json
from importlib import resources
from typing import Any


def add_examples(document: dict[str, Any]) -> None:
    """Add an example to the main response of each operation of an OpenAPI document."""
    examples = json.loads((resources.files("service") / "examples.json").read_text("utf-8"))
    for operations in document["paths"].values():
        for operation in operations.values():
            content = operation["responses"]["200"]["content"]
            if operation["operationId"] in examples:
                next(iter(content.values()))["example"] = examples[operation["operationId"]]
