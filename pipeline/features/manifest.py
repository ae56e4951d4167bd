"""Validates manifest.json and samples.arrow of a feature set, alone and against each other.

The readers of the parts rely on these checks.
"""

import math
from collections.abc import Callable
from itertools import chain
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.arrays import Array
from pipeline.config import Name
from pipeline.errors import DataError
from pipeline.storage.metadata import Fingerprinter, fingerprint_of
from pipeline.storage.schemas import RESERVED, SPLITS, check_columns, samples_schema
from pipeline.storage.table_checks import (
    MAX_CLASSES,
    MAX_MODALITIES,
    MAX_ROWS,
    add_content,
    check_model,
)

Count = Annotated[int, Field(ge=0)]
Numbers = list[Annotated[float, Field(allow_inf_nan=False)]]
MAX_ROW_BYTES = 2**31


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class ManifestFile(_Strict):
    """One file of a part: the rows of one modality."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Count


class Part(_Strict):
    """The rows of one shard."""

    index: Count
    shard: str = ""
    rows: Count
    files: dict[str, ManifestFile] = {}


class TokenizerEntry(_Strict):
    """The tokenizer of a text modality; its JSON is <modality>/tokenizer.json."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=1, le=2**31)]
    pad: Count

    @model_validator(mode="after")
    def _pads(self) -> Self:
        if self.pad >= self.size:
            raise ValueError(f"pad is {self.pad}, but the vocabulary has {self.size} ids")
        return self


class FeatureTable(_Strict):
    """One modality: shape and dtype of a row, and statistics for normalisation."""

    kind: str
    shape: list[Annotated[int, Field(ge=1)]]
    dtype: Annotated[str, Field(pattern="^(u?int(8|16|32|64)|float(16|32|64))$")]
    num_rows: Count
    mean: Numbers
    std: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    tokenizer: TokenizerEntry | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.row_bytes > MAX_ROW_BYTES:
            raise ValueError(
                f"a row of shape {self.shape} has {self.row_bytes} bytes, more than {MAX_ROW_BYTES}"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(f"it has {len(self.mean)} means but {len(self.std)} deviations")
        return self

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Manifest(_Strict):
    """The entries of manifest.json that Remix reads."""

    version: int = 0
    modalities: Annotated[dict[Name, FeatureTable], Field(min_length=1, max_length=MAX_MODALITIES)]
    classes: Annotated[list[str], Field(min_length=1, max_length=MAX_CLASSES)]
    splits: dict[str, Count]
    num_rows: Annotated[int, Field(ge=0, le=MAX_ROWS)]
    batch_rows: Annotated[int, Field(ge=1, le=2**20)]
    parts: list[Part]
    parents: dict[str, Any] = {}
    num_rejected: Count = 0
    reasons: dict[str, Count] = {}
    ignored: dict[str, Count] = {}
    unread: dict[str, Count] = {}
    mislabelled: dict[str, dict[str, Count]] = {}
    fingerprint: str

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        for name in self.modalities:
            if RESERVED.fullmatch(name):
                raise ValueError(f"the name {name!r} is reserved and cannot name a modality")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        if not set(self.splits) <= set(SPLITS):
            raise ValueError(f"the splits are {', '.join(self.splits)}, not {', '.join(SPLITS)}")
        for what, numbers in (
            ("parts", [part.rows for part in self.parts]),
            ("splits", list(self.splits.values())),
        ):
            if sum(numbers) != self.num_rows:
                raise ValueError(
                    f"its {what} have {sum(numbers)} rows in total, but num_rows is {self.num_rows}"
                )
        if len({part.index for part in self.parts}) < len(self.parts):
            raise ValueError("two of its parts have the same index")
        for part, (name, file) in chain.from_iterable(
            ((part, item) for item in part.files.items()) for part in self.parts
        ):
            if name not in self.modalities:
                raise ValueError(f"part {part.index} has a file of {name!r}, not a modality")
            if file.bytes < part.rows * self.modalities[name].row_bytes:
                raise ValueError(
                    f"part {part.index} of {name!r} has {file.bytes} bytes, too few for its "
                    f"{part.rows} rows"
                )
        return self


def check_manifest(manifest: dict[str, Any], what: str) -> None:
    """Raise DataError naming the first entry that is missing, invalid or contradicts another."""
    check_model(
        Manifest,
        manifest,
        what,
        lambda loc: f"entry {loc!r}" if loc else "the manifest",
        "decode again",
    )


def check_samples(table: pa.Table, manifest: dict[str, Any], what: str) -> None:
    """Check every row of samples.arrow, and the counts and fingerprint in its manifest.

    Raises DataError naming the column and the row.
    """
    modalities, classes = list(manifest["modalities"]), manifest["classes"]
    expected = samples_schema(modalities)
    check_columns(table.schema, expected, what)
    if table.schema.names != expected.names or table.num_rows != manifest["num_rows"]:
        raise DataError(
            f"{what} has {table.num_rows} rows of {', '.join(table.schema.names)}, but its "
            f"manifest records {manifest['num_rows']} of {', '.join(expected.names)}",
            "decode again",
        )
    content, start = Fingerprinter(table.schema), 0
    splits, present = dict.fromkeys(SPLITS, 0), dict.fromkeys(modalities, 0)
    for batch in table.to_batches():
        check_rows(batch, start, len(classes), what)
        add_content(content, [batch], what)
        for split in SPLITS:
            splits[split] += pc.sum(pc.equal(batch["split"], split)).as_py() or 0
        for name in modalities:
            present[name] += batch[f"has_{name}"].true_count
        start += batch.num_rows
    recorded = (
        {split: manifest["splits"].get(split, 0) for split in SPLITS}
        if "splits" in manifest
        else splits
    )
    if splits != recorded:
        raise DataError(
            f"{what}: column 'split' counts {splits}, but its manifest records {recorded}",
            "decode again",
        )
    for name, num in present.items():
        if manifest["modalities"][name].get("num_rows", num) != num:
            raise DataError(
                f"{what}: column 'has_{name}' counts {num}, but its manifest records "
                f"{manifest['modalities'][name]['num_rows']}",
                "decode again",
            )
    actual = features_fingerprint(manifest, content.hexdigest({}))
    if actual not in (None, manifest["fingerprint"]):
        raise DataError(
            f"{what}: its manifest records the fingerprint {manifest['fingerprint']}, but its "
            f"content has {actual}",
            "decode again",
        )


def features_fingerprint(manifest: dict[str, Any], content: str) -> str | None:
    """Compute a feature set's fingerprint from its manifest and the hash of its samples.

    Returns None for a manifest that lacks the version, shards or file hashes that it covers.
    """
    if "version" not in manifest or not all(
        {"shard", "files"} <= part.keys() for part in manifest["parts"]
    ):
        return None
    files = [
        [
            part["shard"],
            part["rows"],
            {name: file["sha256"] for name, file in part["files"].items()},
        ]
        for part in manifest["parts"]
    ]
    return fingerprint_of(
        [
            manifest["version"],
            list(manifest["modalities"].items()),
            list(manifest["classes"]),
            files,
            content,
        ]
    )


def check_rows(batch: pa.RecordBatch, start: int, num_classes: int, what: str) -> None:
    """Check the values of columns of samples.arrow, which begin at row `start`.

    Raises DataError naming the column and the row.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count:
            row = start + pc.index(pc.is_null(column), True).as_py()
            raise DataError(f"{what}: column {name!r} has a null in row {row}", "decode again")
    rules: dict[str, tuple[Callable[[pa.Array], Array], str]] = {
        "row": (
            lambda column: column.to_numpy() != np.arange(start, start + len(column)),
            "which is not its position",
        ),
        "label": (
            lambda column: (column.to_numpy() < 0) | (column.to_numpy() >= num_classes),
            f"but the manifest has {num_classes} classes",
        ),
        "split": (
            lambda column: ~pc.is_in(column, pa.array(SPLITS)).to_numpy(zero_copy_only=False),
            f"which is not one of {', '.join(SPLITS)}",
        ),
        "index_in_shard": (lambda column: column.to_numpy() < 0, "which is negative"),
    }
    for name in rules.keys() & batch.schema.names:
        wrong, rule = rules[name]
        bad = np.flatnonzero(wrong(batch[name]))
        if len(bad):
            value = batch[name][int(bad[0])].as_py()
            raise DataError(
                f"{what}: column {name!r} is {value!r} in row {start + bad[0]}, {rule}",
                "decode again",
            )
