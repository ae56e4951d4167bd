"""Rules of a dataset's layout: where a sample's key ends, and its id, label and split come from."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, model_validator

from pipeline.config import StrictModel
from pipeline.errors import RemixError
from pipeline.shards.member_suffixes import MEDIA, TEXT
from pipeline.storage.store_path import StorePath

PLACES = ("key", "shard/key", "cls", "txt", "folder", "shard")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Words for splits in names of shards and folders, and in metadata."""


def _known_place(place: str) -> str:
    is_field = place.startswith("json.") and place != "json."
    if place not in PLACES and not is_field:
        raise ValueError(f"{place!r} is none of {', '.join(PLACES)}, json.FIELD")
    return place


Place = Annotated[str, AfterValidator(_known_place)]
"""Where a value is: json.FIELD, a field of the sample's .json, json.A.B for one in a nested object;
cls or txt, the content of that member; key, the sample's key; shard/key, the shard's name and the
key; folder, the last folder of the key, for a split any of them; shard, the shard's name and
folders."""


class SplitRule(StrictModel):
    """Where the split comes from, and how much of train moves to other splits."""

    model_config = ConfigDict(serialize_by_alias=True)

    places: tuple[Place, ...] = Field(default=("json.split", "shard"), alias="from")
    """Places of the split; the first one that has it counts. Empty: all samples are train."""
    validation_share: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the train samples, drawn by a hash of their ids, that are validation instead."""
    test_share: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the train samples that are test instead."""
    group_by: Place | None = None
    """Place of a value, such as the speaker, whose samples stay in one split."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw."""

    @model_validator(mode="after")
    def _leave_some(self) -> "SplitRule":
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave no train sample")
        return self


class SampleRules(StrictModel):
    """Where a sample's key ends, and where its id, label and split come from.

    Each place may be a list: the first place that has a value counts."""

    key_end: Literal["first_dot", "last_dot"] = "first_dot"
    """Where the key ends in a member's name: at the first dot of the base name, as in webdataset,
    or at the last one, if keys contain dots."""
    id: tuple[Place, ...] = ("json.sample_id", "key")
    """Place of the id, which is unique in the feature set."""
    label: tuple[Place, ...] = ("json.label", "cls")
    """Place of the label."""
    split: SplitRule = SplitRule()
    """Place of the split, a list of places, or a mapping with shares for other splits."""
    class_names: tuple[str, ...] | None = None
    """Names of classes by number, if the labels are numbers: a list, or a text file with a name per
    line."""

    @model_validator(mode="before")
    @classmethod
    def _places(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if isinstance(value.get("class_names"), str):
            folder = (info.context or {}).get("folder")
            value["class_names"] = _lines(value["class_names"], folder)
        for name in ("id", "label"):
            if isinstance(value.get(name), str):
                value[name] = (value[name],)
        split = value.get("split")
        if isinstance(split, str):
            value["split"] = {"from": (split,)}
        elif isinstance(split, list | tuple):
            value["split"] = {"from": split}
        elif isinstance(split, dict) and isinstance(split.get("from"), str):
            value["split"] = {**split, "from": (split["from"],)}
        return value

    @property
    def metadata(self) -> frozenset[str]:
        """Suffixes of the members that hold metadata, and so no medium."""
        places = (*self.id, *self.label, *self.split.places)
        return TEXT | {"txt"} if "txt" in places else TEXT

    def is_medium(self, suffix: str) -> bool:
        """Whether a member of this suffix is a medium."""
        return suffix.rpartition(".")[2] in MEDIA and suffix not in self.metadata


def _lines(name: str, folder: StorePath | None) -> list[str]:
    path = StorePath.at(name)
    if folder is not None and not name.startswith("/") and "://" not in name:
        path = folder / name
    try:
        return path.read_bytes().decode().splitlines()
    except (OSError, UnicodeDecodeError, RemixError) as error:
        raise ValueError(f"cannot read the class names in {path} ({error})") from error


def split_of_name(name: str) -> str | None:
    """The split that a name contains as a word, None if there is none or there are several."""
    words = name.lower().replace("_", "-").replace(".", "-").split("-")
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def split_of_path(path: str) -> str | None:
    """The split that a path names, in its base name or else in the nearest folder."""
    parts = reversed(PurePosixPath(path).parts)
    return next((split for part in parts if (split := split_of_name(part))), None)
