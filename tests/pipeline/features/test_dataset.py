"""A feature set as a dataset of PyTorch and as a data frame."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.errors import InputError
from remix import FeatureSet
from tests.support.stores import SHAPES, make_features


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", num_rows=20)
    return store


def test_a_name_a_path_and_a_list_of_rows(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMIX_STORE", str(store))
    by_name = FeatureSet.open("made")
    by_path = FeatureSet.open(str(store / "features" / "made"))
    assert by_name.fingerprint == by_path.fingerprint
    values = by_name.read("touch", [7, 3, 7])
    assert np.array_equal(values, by_path.read("touch", np.array([7, 3, 7])))


def test_an_item_has_a_tensor_per_modality(store: Path) -> None:
    features = FeatureSet.open(store / "features" / "made")
    dataset = features.as_dataset()
    assert isinstance(dataset, Dataset) and len(dataset) == 20
    item = dataset[4]
    assert list(item) == [*SHAPES, "label", "row", "sample_id"]
    assert (item["label"], item["row"], item["sample_id"]) == (features.labels[4], 4, "s0004")
    assert torch.equal(item["sight"], torch.from_numpy(features.read("sight", [4])[0]))
    for row in (20, -1):
        with pytest.raises(IndexError, match=str(row)):
            dataset[row]


def test_a_pair_reads_only_its_modality(store: Path) -> None:
    features = FeatureSet.open(store / "features" / "made")
    (store / "features" / "made" / "sight").rename(store / "hidden")
    try:
        item = features.as_dataset()[(4, "touch")]
    finally:
        (store / "hidden").rename(store / "features" / "made" / "sight")
    assert item["modality"] == "touch"
    assert torch.equal(item["touch"], torch.from_numpy(features.read("touch", [4])[0]))
    assert item["sight"].dtype == torch.uint8 and item["sight"].shape == (2, 3, 16, 16)
    assert not item["sight"].any()
    assert features.as_dataset()[(4, "all")]["sight"].any()
    with pytest.raises(InputError, match="'smell'"):
        features.as_dataset()[(4, "smell")]


def test_workers_load_it(store: Path) -> None:
    dataset = FeatureSet.open(store / "features" / "made").as_dataset()
    loader = DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context="spawn")
    batches = list(loader)
    assert torch.cat([batch["row"] for batch in batches]).tolist() == list(range(20))
    assert batches[0]["sight"].shape == (8, 2, 3, 16, 16)


def test_a_modality_named_like_another_entry_is_refused(tmp_path: Path) -> None:
    shapes = {"row": ((4,), "float32"), "sound": ((4,), "float32")}
    features = make_features(tmp_path / "made", shapes, num_rows=6, num_parts=1)
    with pytest.raises(InputError, match="'row'"):
        features.as_dataset()


def test_samples_as_a_data_frame(store: Path) -> None:
    features = FeatureSet.open(store / "features" / "made")
    frame = features.to_pandas()
    assert frame["label"].tolist() == features.labels.tolist()
    assert {"row", "sample_id", "split", "has_sight"} <= set(frame.columns)
