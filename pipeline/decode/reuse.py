"""Whether what was decoded under one configuration is what another one would make.

A modality's spec decides what is in a row. Limits decide only which samples are rejected: where they are raised,
all stays as it is but for the samples that they rejected.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.config import StrictModel
from pipeline.errors import REASONS
from pipeline.shards.limits import Limits

# A decoder that lacks memory may crash; FFmpeg keeps to `pixels` too, and calls what is beyond damaged; and
# beside damage in a shard the reader's patience for samples that may be incomplete ends at `sample_bytes`.
_REASONS_OF = {
    "timeout": ("timeout",),
    "memory": ("oversize", "crash"),
    "pixels": REASONS,
    "sample_bytes": REASONS,
}


def same(config: StrictModel, recorded: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration is this one; a field added since is at its default there."""
    given = config.model_dump(mode="json", exclude_defaults=True)
    told = config.model_dump(mode="json")
    defaults = {name: value for name, value in told.items() if name not in given}
    return {**defaults, **recorded} == told


def lowered(limits: Limits, recorded: Mapping[str, Any]) -> list[str]:
    """The limits that are lower than the recorded ones, and may reject more samples."""
    was = Limits.model_validate(recorded)
    return [name for name in Limits.model_fields if getattr(limits, name) < getattr(was, name)]


def lifted(limits: Limits, recorded: Mapping[str, Any]) -> set[str]:
    """The reasons for which samples were rejected that may no longer hold under higher limits."""
    was = Limits.model_validate(recorded)
    raised = [name for name in Limits.model_fields if getattr(limits, name) > getattr(was, name)]
    return {reason for name in raised for reason in _REASONS_OF.get(name, ("oversize",))}
