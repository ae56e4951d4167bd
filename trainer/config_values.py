"""Values of a configuration as nested mappings."""

from collections.abc import Iterator, Mapping
from typing import Any


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of `over` win."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = (
            merge(merged[key], value)
            if isinstance(value, dict) and isinstance(merged.get(key), dict)
            else value
        )
    return merged


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"train": {"epochs": 1}} for {"train.epochs": 1}."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        tree: dict[str, Any] = {last: value}
        for name in reversed(parents):
            tree = {name: tree}
        result = merge(result, tree)
    return result


def differing(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Paths of the values that differ, such as train.epochs."""
    for key in {**first, **second}:
        a, b = first.get(key), second.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from (f"{key}.{path}" for path in differing(a, b))
        elif a != b:
            yield key
