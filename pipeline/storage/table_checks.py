"""What tables from outside say of themselves, held against what they hold: their metadata, their fingerprint and their parents.

Memory is that of a record batch.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import DataError, MismatchError
from pipeline.storage.metadata import FINGERPRINT_ROWS, Fingerprinter

MAX_ROWS = 2**31
"""The most rows of a feature set."""
MAX_CLASSES = 2**20
MAX_MODALITIES = 127
"""What an int8 numbers."""
CURE = "write the file again"


class Metadata(BaseModel):
    """The `remix.*` metadata that Remix reads, each where it is there."""

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
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    validation_accuracy: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    parents: dict[str, str] = {}


def check_metadata(metadata: Mapping[str, Any], what: str) -> None:
    """Raises DataError where a known entry of a table's metadata is not of its type."""
    check_model(Metadata, dict(metadata), what, lambda loc: f"metadata 'remix.{loc}'")
    named = metadata.get("modalities", [])
    if len(set(named)) < len(named):
        raise DataError(
            f"{what}: metadata 'remix.modalities' is {named}, which names one twice", CURE
        )


def check_model(
    model: type[BaseModel], value: object, what: str, name: Callable[[str], str], cure: str = CURE
) -> None:
    """Raises DataError that names the first field that does not fit a model."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = name(".".join(str(part) for part in first["loc"]))
        was = (
            "" if first["type"] in ("missing", "value_error") else f" is {shorten(first['input'])}"
        )
        raise DataError(
            f"{what}: {at}{was}: {first['msg'].removeprefix('Value error, ')}", cure
        ) from error


def shorten(value: object) -> str:
    """A value as text of at most some 100 characters."""
    text = (
        repr(value)
        if isinstance(value, str | int | float | bool | None) and len(str(value)[:200]) < 200
        else f"a {type(value).__name__}"
    )
    return text if len(text) <= 100 else f"{text[:90]}..."


def check_fingerprint(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, metadata: Mapping[str, Any], what: str
) -> None:
    """Compares the content of a table with the fingerprint in its metadata; one from elsewhere may have none, but then nothing unknown (raises DataError)."""
    if "fingerprint" not in metadata:
        for key in metadata:
            if key not in Metadata.model_fields:
                raise DataError(
                    f"{what} has metadata 'remix.{key}', which is unknown, and no 'remix.fingerprint'",
                    f"{CURE} without it, or let Remix write it",
                )
        return
    content = Fingerprinter(schema)
    add_content(content, batches, what)
    compare_fingerprint(content, metadata, what)


def add_content(content: Fingerprinter, batches: Iterable[pa.RecordBatch], what: str) -> None:
    """Adds batches to a fingerprint (raises DataError for columns that Remix does not write)."""
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
            f"{what} has a fingerprint, but columns that Remix does not write ({error})",
            f"{CURE} without 'remix.fingerprint'",
        ) from error


def compare_fingerprint(content: Fingerprinter, metadata: Mapping[str, Any], what: str) -> None:
    """Raises DataError where the content has another hash than the metadata say."""
    recorded, actual = metadata["fingerprint"], content.hexdigest(metadata)
    if recorded != actual:
        raise DataError(
            f"{what} says that its fingerprint is {recorded}, but its content has {actual}",
            "fetch or write the file again",
        )


def check_parent(what: str, recorded: str | None, parent: str, actual: str) -> None:
    """Raises MismatchError where an artifact was made from another parent than the one at hand."""
    if recorded is not None and recorded != actual:
        raise MismatchError(
            f"{what} was made from {parent} {recorded[:12]}, but the one given is {actual[:12]}",
            f"give the {parent} that it was made from, or make it again",
        )
