"""Every operation has an example that its response model accepts, and a client can be generated."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.support.http_client import RUN, get
from tests.support.serving import serving

IMAGE = "/v1/features/{name}/rows/{row}/modalities/{modality}/image"
CLIP = "/v1/features/{name}/rows/{row}/media/{suffix}"
BINARY = {IMAGE, CLIP}
NOT_JSON = {"/metrics", "/v1/runs/{run}/events", *BINARY}


def test_every_operation_has_an_example_that_its_model_accepts(client: httpx.Client) -> None:
    document = get(client, "/openapi.json")
    models = []
    for path, operations in document["paths"].items():
        operation = operations["get"]
        media_type, main = next(iter(operation["responses"]["200"]["content"].items()))
        assert path in BINARY or main["example"], path
        if media_type == "application/json":
            schema = {**main["schema"], "components": document["components"]}
            assert list(Draft202012Validator(schema).iter_errors(main["example"])) == [], path
            models.append(path)
        for parameter in operation.get("parameters", []):
            assert parameter["in"] != "path" or parameter["schema"]["examples"], path
    assert len(models) == len(document["paths"]) - len(NOT_JSON)


def test_a_generated_client_reads_a_run(
    client: httpx.Client, trained_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openapi.json").write_bytes(client.get("/openapi.json").content)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    # a PNG is bytes, which the generator does not know
    config = {"content_type_overrides": {"image/png": "application/octet-stream"}}
    (tmp_path / "client.yaml").write_text(yaml.safe_dump(config))
    command += ["--config", "client.yaml"]
    options = ["--path", "openapi.json", "--output-path", "remix_client", "--fail-on-warning"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for ruff
    ended = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "arning" not in ended.stdout
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(module: str, **parameters: Any) -> Any:
        function = importlib.import_module(f"remix_client.api.{module}").sync
        return function(client=generated, **parameters)

    run = RUN.rpartition("/")[2]
    with serving(trained_store, token="secret") as url:
        package = importlib.import_module("remix_client")
        generated = package.AuthenticatedClient(base_url=url, token="secret")
        names = [item.name for item in call("runs.list_runs").items]
        detail = call("runs.get_run", run=run)
        steps = call("plans.list_steps", run=run, epoch=2, limit=3)
    assert names == [item["name"] for item in get(client, "/v1/runs")["items"]]
    assert detail.to_dict()["plans"] == [0, 1, 2, 3]
    expected = get(client, f"{RUN}/plans/2/steps?limit=3")
    assert [step.rows for step in steps.items] == [step["rows"] for step in expected["items"]]
