"""A run whose features are made from its source if they do not exist."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.config import parse
from pipeline.errors import ConfigError, InputError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.scores.table import Scores
from pipeline.sources.synthetic.generate import generate
from pipeline.storage.schemas import SPLITS
from tests.support.stores import check_coverage
from trainer.config import RunConfig
from trainer.launch import launch

SAMPLES = {"samples": 60, "classes": 2, "shards": 2, "modalities": ["tensor", "image"]}


def asked(
    store: Path,
    resources: Mapping[str, object] | None = None,
    num_epochs: int = 1,
    **source: object,
) -> RunConfig:
    model = {"encoder": {"kind": "cnn", "width": 4, "norm": "group"}}
    train = {"epochs": num_epochs, "warmup_epochs": 1, "batch_size": 8}
    return parse(
        RunConfig,
        {
            "name": "run",
            "features": "fresh",
            "store": str(store),
            "source": source,
            "model": model,
            "train": train,
            "resources": resources or {},
        },
        "test",
    )


def test_generated_features_of_three_kinds_are_made_once_and_again_the_same(
    tmp_path: Path, ray_cluster: None
) -> None:
    three = ["video", "audio", "tensor"]
    config, events = asked(tmp_path, num_epochs=3, generate={**SAMPLES, "modalities": three}), []
    run = launch(config, progress=events.append)
    assert [event["event"] for event in events if event["event"] == "source"] == [
        "source"
    ] * 3  # at the start, and when each of two shards is decoded
    assert [event["text"].split(": ")[1] for event in events if event["event"] == "decoded"] == [
        "60 rows, 0 rejected"
    ]
    assert run.metadata["status"] == "finished"
    check_coverage(run, 3)
    assert all(
        {step.modality for step in BatchPlan.open(run.plan(epoch)).steps()} <= set(three)
        for epoch in (1, 2)
    )
    assert [Scores.open(run.scores(epoch)).modalities for epoch in (1, 2)] == [three, three]
    assert run.metadata["result"]["test_accuracy"].keys() == {"fused", *three}
    features = FeatureSet.open(config.features_path)
    assert {name: features.manifest["splits"][name] for name in SPLITS} == {
        "train": 42,
        "validation": 9,
        "test": 9,
    }
    manifest = tmp_path / "features" / "fresh" / "manifest.json"
    before = (manifest.read_bytes(), manifest.stat().st_mtime_ns)
    assert launch(config, resume=True).metadata == run.metadata
    assert (manifest.read_bytes(), manifest.stat().st_mtime_ns) == before
    shutil.rmtree(tmp_path / "features")
    (
        tmp_path / "shards" / "fresh" / "shards.json"
    ).unlink()  # as where the job was killed before the last file
    launch(config, resume=True)
    # the manifest also records the times of the shards, which were written again
    assert FeatureSet.open(config.features_path).fingerprint == features.fingerprint


def test_shards_are_relative_to_the_store_or_absolute(tmp_path: Path, ray_cluster: None) -> None:
    summary = generate(tmp_path / "one" / "shards" / "made", **{**SAMPLES, "seed": 3})
    fingerprints = set()
    for store, shards in (("one", ["shards/made"]), ("two", [f"{tmp_path}/one/shards/made/*.tar"])):
        config = asked(tmp_path / store, shards=shards)
        launch(config)
        features = FeatureSet.open(config.features_path)
        assert features.num_rows == summary["samples"]
        fingerprints.add(features.fingerprint)
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ({}, ("source", "{}", "generate", "shards")),
        ({"generate": SAMPLES, "shards": ["a"]}, ("source", "generate", "shards")),
        ({"generate": {"sample": 3}}, ("source.generate.sample", "samples")),
        ({"generate": {"profile": "slwo"}}, ("source.generate.profile", "slow")),
    ],
)
def test_a_source_is_either_generated_or_shards(
    source: dict[str, object], names: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        asked(tmp_path, **source)
    assert all(name in str(error.value) for name in names)


def test_missing_shards_are_named(tmp_path: Path, ray_cluster: None) -> None:
    with pytest.raises(InputError, match="shards/none"):
        launch(asked(tmp_path, shards=["shards/none"]))
    assert not (tmp_path / "runs").exists()


def test_tasks_run_on_nodes_with_the_required_resources(tmp_path: Path, ray_cluster: None) -> None:
    for resources, message in (
        ({"decode_resources": {"decode": 1}}, r"(?=.*\bdecode\b)(?=.*\b1\b)(?=.*\b0\b)"),
        (
            {"workers": 2, "worker_resources": {"fast": 0.5}},
            r"(?=.*\bfast\b)(?=.*\b1\b)(?=.*\b0\b)",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            launch(asked(tmp_path, resources, generate=SAMPLES))
