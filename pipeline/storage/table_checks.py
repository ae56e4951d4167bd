"""Checks of untrusted tables: their metadata, their fingerprint and their parents.

Tables are read one record batch at a time.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import DataError, MismatchError
from pipeline.storage.metadata import FINGERPRINT_ROWS, Fingerprinter

MAX_ROWS = 2**31
"""Maximum rows of a feature set."""
MAX_CLASSES = 2**20
MAX_MODALITIES = 127
"""Column `assigned` of a plan is an int8."""
CURE = "write the file again"


class Metadata(BaseModel):
    """The `remix.*` metadata that Remix reads. Every entry is optional."""

    model_config = ConfigDict(strict=True)

    fingerprint: str = ""
    epoch: Annotated[int, Field(ge=0)] = 0
    seed: int = 0
    modalities: Annotated[list[str], Field(max_length=MAX_MODALITIES)] = []
    num_classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)] = 1
    batch_size: Annotated[int, Field(ge=1)] = 1
    policy: str = ""
    order: str = ""
    copies: str = "none"
    validation_accuracy: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    parents: dict[str, str] = {}


def check_metadata(metadata: Mapping[str, Any], what: str) -> None:
    """Raise DataError if a known metadata entry has a wrong type or value."""
    check_model(Metadata, dict(metadata), what, lambda loc: f"metadata 'remix.{loc}'")
    modalities = metadata.get("modalities", [])
    if len(set(modalities)) < len(modalities):
        raise DataError(
            f"{what}: metadata 'remix.modalities' contains a duplicate: {modalities}", CURE
        )


def check_model(
    model: type[BaseModel], value: object, what: str, name: Callable[[str], str], cure: str = CURE
) -> None:
    """Raise DataError naming the first field that does not fit a model.

    Args:
        model: the model.
        value: the value to validate.
        what: the name of the value in messages, such as the path of its file.
        name: maps the dotted path of a field to its name in messages.
        cure: how to fix the value.
    """
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = name(".".join(str(part) for part in first["loc"]))
        given = (
            "" if first["type"] in ("missing", "value_error") else f" is {shorten(first['input'])}"
        )
        raise DataError(
            f"{what}: {field}{given}: {first['msg'].removeprefix('Value error, ')}", cure
        ) from error


def shorten(value: object) -> str:
    """A value as text of at most 100 characters, for messages."""
    text = (
        repr(value)
        if isinstance(value, str | int | float | bool | None) and len(str(value)[:200]) < 200
        else f"a {type(value).__name__}"
    )
    return text if len(text) <= 100 else f"{text[:90]}..."


def check_fingerprint(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, metadata: Mapping[str, Any], what: str
) -> None:
    """Compare the content of a table with the fingerprint in its metadata.

    A table written by another program may lack a fingerprint, but not have unknown metadata then.
    Raises DataError.
    """
    if "fingerprint" not in metadata:
        for key in metadata:
            if key not in Metadata.model_fields:
                raise DataError(
                    f"{what} has unknown metadata 'remix.{key}' and no 'remix.fingerprint'",
                    "remove that metadata, or write the file with Remix",
                )
        return
    content = Fingerprinter(schema)
    add_content(content, batches, what)
    compare_fingerprint(content, metadata, what)


def add_content(content: Fingerprinter, batches: Iterable[pa.RecordBatch], what: str) -> None:
    """Add batches to a fingerprint. Raises DataError for column types that Remix does not write."""
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, FINGERPRINT_ROWS):
                content.update(batch.slice(start, FINGERPRINT_ROWS))
    except (
        pa.ArrowException,
        TypeError,
        ValueError,
        AttributeError,
        BufferError,
        NotImplementedError,
    ) as error:
        raise DataError(
            f"{what} has a fingerprint, but a column whose type Remix does not write ({error})",
            f"{CURE} without 'remix.fingerprint'",
        ) from error


def compare_fingerprint(content: Fingerprinter, metadata: Mapping[str, Any], what: str) -> None:
    """Raise DataError if the hash of the content differs from the fingerprint in the metadata."""
    recorded, actual = metadata["fingerprint"], content.hexdigest(metadata)
    if recorded != actual:
        raise DataError(
            f"{what} records the fingerprint {recorded}, but its content has {actual}",
            "download or write the file again",
        )


def check_parent(what: str, recorded: str | None, parent: str, actual: str) -> None:
    """Raise MismatchError if an artifact was made from another parent than the given one."""
    if recorded is not None and recorded != actual:
        raise MismatchError(
            f"{what} was made from {parent} {recorded[:12]}, but the one given is {actual[:12]}",
            f"give the {parent} it was made from, or create it again",
        )
