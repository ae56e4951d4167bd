"""Job submissions without a cluster: which configurations are valid, what is sent, log lines."""

import json
from pathlib import Path

import pytest

from pipeline.config import parse
from pipeline.errors import ConfigError
from remix.cli.output import progress
from trainer.cluster.jobs import MAX_CONFIG_BYTES, Cluster, event_of, request_of
from trainer.config import RunConfig, load_run

BASE = {"name": "run", "features": "made", "store": "/store", "resources": {"workers": 1}}


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "http://user:word@head:8265", "http://", "auto://x"]
)
def test_an_address_of_another_kind_is_refused_without_its_secrets(address: str) -> None:
    with pytest.raises(ConfigError, match=address.replace("user:word@", "")) as error:
        Cluster(address)
    assert "word@" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"store": "store"}, r"\bstore\b"),
        ({"store": "s3://key:word@bucket/x"}, "s3://bucket/x"),
        ({"store": "gs://bucket/x?access_token=word"}, "gs://bucket/x"),
        ({"source": {"shards": ["s3://key:word@bucket/shards"]}}, "s3://bucket/shards"),
        ({"resources": {"workers": 0}}, r"(?s)(?=.*\bresources\.workers\b)(?=.*\b0\b)"),
        (
            {"source": {"shards": ["x" * 100] * (MAX_CONFIG_BYTES // 100)}},
            rf"\b{MAX_CONFIG_BYTES}\b",
        ),
    ],
)
def test_invalid_job_configurations_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        request_of(parse(RunConfig, {**BASE, **changes}, "test"))
    assert "word" not in str(error.value)


@pytest.mark.parametrize(
    "store",
    [
        "/store",
        "/a store/$(x)'\"; `y` \\ %s",
        "/Zürich/😀",
        "s3://bucket/x?endpoint_override=http://minio:9000",
    ],
)
def test_a_job_gets_its_configuration_by_environment_not_by_command(
    tmp_path: Path, store: str
) -> None:
    config = parse(
        RunConfig,
        {
            **BASE,
            "store": store,
            "optimizer": {"lr": 5e-5},
            "source": {"shards": ["shards/größe", "/x:y #1"]},
        },
        "test",
    )
    request = request_of(config)
    assert request["entrypoint"] == request_of(parse(RunConfig, BASE, "test"))["entrypoint"]
    sent = tmp_path / "sent.yaml"
    sent.write_text(request["runtime_env"]["env_vars"]["REMIX_JOB"], encoding="utf-8")
    assert load_run(sent) == config
    assert request["metadata"]["remix.store"] == store.split("?")[0]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        '{"run": ',
        '{"run": "x"}',
        '{"progress": 1}',
        '{"progress": {}} and more',
        '"run"',
        " {",
    ],
)
def test_lines_that_others_wrote_are_shown_as_they_are(line: str) -> None:
    assert event_of(line) == line


def test_progress_for_programs_is_sparse_and_ends_with_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REMIX_PROGRESS", "json")
    with progress("title") as update:
        for done in range(5000):
            update(done + 1, 5000, description="things")
    lines = [json.loads(line)["progress"] for line in capsys.readouterr().err.splitlines()]
    assert lines[0]["done"] == 1 and lines[-1] == {
        "title": "title",
        "done": 5000,
        "total": 5000,
        "description": "things",
    }
    assert len(lines) < 500


def test_progress_that_is_piped_is_lines_of_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("remix.cli.output.SECONDS_PER_LINE", 0.0)
    with progress("decode") as update:
        update(1, 2)
        update(2, 2, description="decode; shards")
    assert capsys.readouterr().err == "decode: 1 of 2\ndecode; shards: 2 of 2\n"
