"""Checks whether rows decoded with one configuration can be reused with another.

A modality's spec determines the content of its rows, so it must be equal. Limits only determine
which samples are rejected: after raising one, only the samples that it rejected change.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.config import StrictModel
from pipeline.errors import REASONS
from pipeline.shards.limits import Limits

# Rejection reasons per limit; `oversize` for the limits not listed. A decoder that is out of memory
# may crash. FFmpeg enforces `pixels` too and reports larger frames as damaged. In a damaged shard,
# `sample_bytes` bounds how long the reader waits for the rest of an incomplete sample.
_REASONS_OF = {
    "timeout": ("timeout",),
    "memory": ("oversize", "crash"),
    "pixels": REASONS,
    "sample_bytes": REASONS,
}


def equals_recorded(config: StrictModel, recorded: Mapping[str, Any]) -> bool:
    """Return whether a recorded configuration equals this one.

    A field that older versions did not record counts as having its default value.
    """
    explicit = config.model_dump(mode="json", exclude_defaults=True)
    values = config.model_dump(mode="json")
    defaults = {name: value for name, value in values.items() if name not in explicit}
    return {**defaults, **recorded} == values


def lowered_limits(limits: Limits, recorded: Mapping[str, Any]) -> list[str]:
    """Names of the limits that are lower than recorded, which may reject more samples."""
    old = Limits.model_validate(recorded)
    return [name for name in Limits.model_fields if getattr(limits, name) < getattr(old, name)]


def outdated_reasons(limits: Limits, recorded: Mapping[str, Any]) -> set[str]:
    """Rejection reasons that may no longer apply because a limit is higher than recorded."""
    old = Limits.model_validate(recorded)
    raised = [name for name in Limits.model_fields if getattr(limits, name) > getattr(old, name)]
    return {reason for name in raised for reason in _REASONS_OF.get(name, ("oversize",))}
