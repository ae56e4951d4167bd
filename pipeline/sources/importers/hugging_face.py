"""Importer of a Hugging Face dataset that is saved to disk or in the local cache.

Rows are read as Arrow tables, so encoded media are copied without being decoded.
"""

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter, methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from scipy.io import wavfile

from pipeline.errors import DataError, MissingError
from pipeline.shards.member_suffixes import KINDS_OF
from pipeline.sources.checks import one_of, require
from pipeline.sources.importers.content import Content, Source, extension
from pipeline.sources.importers.manifest import Row, split_of
from pipeline.sources.importers.probing import suffix_of
from pipeline.sources.importers.table import check_options, write_table
from pipeline.sources.shard_writer import JsonValue, Progress, check_vacant

_BATCH = 256
_KINDS = {
    "Image": "image",
    "Audio": "audio",
    "Video": "video",
    **dict.fromkeys(("List", "LargeList", "Array2D", "Array3D", "Array4D", "Array5D"), "tensor"),
}
"""Kind of modality by the type of a column."""
_MEDIA = ("Image", "Audio", "Video")
_POSSIBLE = {"tensor": ("tensor", "image"), "text": ("text",), "struct": ("audio",)}
_SCALAR = ("Value", "ClassLabel")
Encode = Callable[[Any], bytes]


def import_hf(
    name: str,
    out: Path,
    *,
    modalities: Mapping[str, str] | None = None,
    label: str | None = None,
    kinds: Mapping[str, str] | None = None,
    split_by: str | None = None,
    validation_share: float = 0.0,
    num_shards: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Write a dataset as shards and return the content of shards.json.

    The id of a sample is its split and number, such as train-0012. Numbers, strings and class names
    of the other columns are kept as metadata.

    Args:
        name: folder that `save_to_disk` wrote, or the name of a dataset in the local cache.
        modalities: name of each modality and its column; by default the columns of type Image,
            Audio and Video.
        label: column of the label; by default the only ClassLabel, or `label`.
        kinds: kind of a modality, if it does not follow from its column.
        split_by, validation_share, num_shards, seed, progress: as in `import_table`.
    Raises InputError before anything is written, or StoreError.
    """
    check_vacant(out)
    splits = _load(name)
    features = next(iter(splits.values())).features
    if modalities is None:
        modalities = {
            column: column
            for column, feature in features.items()
            if type(feature).__name__ in _MEDIA
        }
    check_options(modalities, kinds or {}, split_by, validation_share)
    label = label or _label_column(features)
    _check_columns(name, features, modalities, [label, *([split_by] if split_by else [])])
    # A video may be read as audio, so its kind is inferred, as that of a file.
    inferred = {modality: _kind(features[column]) for modality, column in modalities.items()}
    kinds = {m: kind for m, kind in inferred.items() if kind != "video"} | dict(kinds or {})
    _check_kinds(features, modalities, kinds)
    scalars = [
        column
        for column, feature in features.items()
        if column in (label, split_by)
        or (type(feature).__name__ in _SCALAR and column not in modalities.values())
    ]
    rows = [
        row
        for split, data in splits.items()
        for row in _rows(name, split, data, modalities, kinds, scalars, (label, split_by))
    ]
    return write_table(
        out,
        rows,
        source=name,
        modalities=modalities,
        label=label,
        kinds=kinds,
        split_by=split_by,
        validation_share=validation_share,
        num_shards=num_shards,
        seed=seed,
        origin={
            "source": "hf",
            "dataset": Path(name).name if Path(name).is_dir() else name,
            "label": label,
            "ignored_columns": sorted(features.keys() - {*scalars, *modalities.values()}),
        },
        progress=progress,
    )


def _load(name: str) -> dict[str, Any]:
    """Open the splits of a dataset by their names. Raises MissingError."""
    # Nothing is downloaded, unless the user has set the variable to 0.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingError(
            f"Package not installed: {error.name!r}", "Run pip install 'data-remixing[hf]'."
        ) from error
    try:
        data = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
    # The package raises OSError, ValueError and classes of its own and of other packages.
    except Exception as error:
        raise MissingError(
            f"Dataset not found: {name} ({error})",
            "Pass a folder that save_to_disk wrote, or a name that load_dataset has downloaded"
            " before; HF_HUB_OFFLINE=0 lets the import download it.",
        ) from error
    if isinstance(data, datasets.DatasetDict):
        return dict(data)
    return {str(data.split or "train"): data}


def _kind(feature: Any) -> str:
    """Return the kind of modality that a column can be, or "" if it cannot be one."""
    if isinstance(feature, dict):
        return "audio" if {"array", "sampling_rate"} <= feature.keys() else ""
    if getattr(feature, "dtype", "") in ("string", "large_string"):
        return "text"
    return _KINDS.get(type(feature).__name__, "")


def _label_column(features: Mapping[str, Any]) -> str:
    """Return the only ClassLabel column, or `label`. Raises InputError."""
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    require(
        len(classes) == 1 or "label" in features,
        f"No label column: {len(classes)} of the columns {', '.join(features)} are a ClassLabel",
        "Choose one with --label.",
    )
    return classes[0] if len(classes) == 1 else "label"


def _check_columns(
    name: str, features: Mapping[str, Any], modalities: Mapping[str, str], scalars: Sequence[str]
) -> None:
    """Raise DataError if a column does not exist or is of a wrong type."""
    for column in (*modalities.values(), *scalars):
        if column not in features:
            raise DataError(f"Column {column!r} not found in {name}", one_of(column, features))
    for modality, column in modalities.items():
        if not _kind(features[column]):
            raise DataError(
                f"Modality {modality!r}: column {column!r} is a {features[column]}",
                "Choose a column of images, audio, videos, texts or arrays.",
            )
    for column in scalars:
        if type(features[column]).__name__ not in _SCALAR:
            raise DataError(
                f"Column {column!r} is a {features[column]}",
                "Choose a column of classes, strings or numbers.",
            )


def _check_kinds(
    features: Mapping[str, Any], modalities: Mapping[str, str], kinds: Mapping[str, str]
) -> None:
    """Raise InputError for a kind that values of a column cannot be encoded as."""
    for modality, column in modalities.items():
        stored = _kind(features[column])
        possible = _POSSIBLE.get("struct" if isinstance(features[column], dict) else stored)
        require(
            possible is None or kinds[modality] in possible,
            f"Kind {kinds.get(modality)!r} given for modality {modality!r}, whose column {column!r}"
            f" is a {features[column]}",
            f"Choose {' or '.join(possible or ())}.",
        )


def _rows(
    name: str,
    split: str,
    data: Any,
    modalities: Mapping[str, str],
    kinds: Mapping[str, str],
    scalars: Sequence[str],
    required: tuple[str, str | None],
) -> Iterator[Row]:
    """Yield the rows of a split, reading it batch by batch. Raises DataError."""
    target, features, data = split_of(split, name), data.features, data.with_format("arrow")
    digits = len(str(len(data)))
    for start in range(0, len(data), _BATCH):
        table = data[start : start + _BATCH]
        cells = {column: _strings(table.column(column), features[column]) for column in scalars}
        sources = {
            modality: _sources(table.column(column), features[column], kinds.get(modality, ""))
            for modality, column in modalities.items()
        }
        for i in range(table.num_rows):
            sample_id = f"{split}-{start + i:0{digits}d}"
            for column in required:
                if column and not cells[column][i].strip():
                    raise DataError(
                        f"{name}, sample {sample_id!r}: column {column!r} is empty",
                        "Remove such rows, as with Dataset.filter, or choose another column.",
                    )
            files: dict[str, Source] = {}
            for modality, column in modalities.items():
                found = sources[modality][i]
                if isinstance(found, Path):
                    files[modality] = found
                elif found is not None:
                    suffix, encode = found
                    place = f"{name}, sample {sample_id!r}, column {column!r}"
                    read = partial(_read, data, start + i, column, place, encode)
                    files[modality] = Content(place, f".{suffix}", read)
            yield Row(
                sample_id=sample_id,
                label=cells[required[0]][i],
                split=target,
                files=files,
                cells={column: values[i] for column, values in cells.items()},
            )


def _sources(
    values: pa.ChunkedArray, feature: Any, kind: str
) -> list[tuple[str, Encode] | Path | None]:
    """Return the suffix and encoder of each value, or its file, or None if there is no value.

    A blank text is no value. `kind` is the kind of the modality.
    """
    stored = _kind(feature)
    if stored == "text":
        encoding = ("txt", methodcaller("encode"))
        return [encoding if (text or "").strip() else None for text in values.to_pylist()]
    if type(feature).__name__ not in _MEDIA:
        return [_ENCODERS[kind] if valid else None for valid in values.is_valid().to_pylist()]
    paths = pc.struct_field(values, "path").to_pylist()
    sizes = pc.binary_length(pc.struct_field(values, "bytes")).to_pylist()
    sources: list[tuple[str, Encode] | Path | None] = []
    for i, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if size is None:
            sources.append(Path(path) if path else None)
            continue
        suffix = extension(Path(path or ""))
        if suffix not in KINDS_OF:
            suffix = suffix_of(values[i]["bytes"].as_py(), stored)
        sources.append((suffix, itemgetter("bytes")))
    return sources


def _strings(values: pa.ChunkedArray, feature: Any) -> list[str]:
    """Values as strings; "" for null, and for the -1 of a class that is not known."""
    if type(feature).__name__ == "ClassLabel":
        return [
            "" if number in (None, -1) else feature.int2str(number) for number in values.to_pylist()
        ]
    return ["" if value is None else str(value) for value in values.to_pylist()]


def _read(data: Any, index: int, column: str, name: str, encode: Callable[[Any], bytes]) -> bytes:
    """Read and encode one value. Raises DataError."""
    try:
        return encode(data[index : index + 1].column(column)[0].as_py())
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{name}: value cannot be encoded ({error})", "Choose another column or kind."
        ) from error


def _npy(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(value, np.float32))
    return file.getvalue()


def _png(value: Any) -> bytes:
    """Encode (height, width) or (height, width, 3) numbers of 0 to 255."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def _wav(value: Any) -> bytes:
    """Encode {"array": (samples,) or (channels, samples), "sampling_rate": Hz}."""
    file = io.BytesIO()
    wavfile.write(file, value["sampling_rate"], np.asarray(value["array"], np.float32).T)
    return file.getvalue()


_ENCODERS: dict[str, tuple[str, Encode]] = {
    "tensor": ("npy", _npy),
    "image": ("png", _png),
    "audio": ("wav", _wav),
}
"""Suffix and encoder of values that are not encoded, by the kind of the modality."""
