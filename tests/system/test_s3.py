"""A store on S3 over HTTP: paths, a training run, copies, the service, and server outages."""

import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pyarrow.fs as pafs
import pytest

from pipeline.errors import InputError, MissingError, StoreError
from pipeline.inspect import inspect
from pipeline.plans.plan import BatchPlan
from pipeline.plans.stats import plan_statistics
from pipeline.scores.table import Scores
from pipeline.storage.store_path import StorePath
from service.http.formats import ARROW
from tests.support.object_store import S3Server
from tests.support.serving import serving
from tests.support.stores import check_coverage, make_features, run_config
from trainer.launch import launch
from trainer.run_directory import Run

SECONDS = 30
"""More than the 5 s that an impatient place waits, fewer than the 100 s of a patient one."""


@pytest.fixture
def server() -> Iterator[S3Server]:
    made = S3Server()
    yield made
    made.stop()


def refuse(ask: Callable[[], object]) -> str:
    """The message of the StoreError that comes in time."""
    begin = time.monotonic()
    with pytest.raises(StoreError) as error:
        ask()
    assert time.monotonic() - begin < SECONDS
    return str(error.value)


def write(path: StorePath) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("patient", [True, False])
def test_a_place_on_s3_is_as_good_as_a_folder(s3: Callable[[], str], patient: bool) -> None:
    root = StorePath.at(s3(), patient=patient)
    path = root / "a" / "b.json"
    assert root.list() == []
    assert not path.exists()
    with pytest.raises(MissingError, match=r"b\.json"):
        path.read_bytes()
    with pytest.raises(RuntimeError), path.create() as file:
        file.write(b"half")
        raise RuntimeError
    assert not path.exists()
    path.write_json({"b": [1, 2]})
    path.write_json({"a": 1})
    assert path.read_json() == {"a": 1}
    assert not path.claim(b"taken")
    assert [entry.name for entry in root.list()] == ["a"]
    assert [entry.name for entry in (root / "a").list()] == ["b.json"]
    assert path.info().size == len(path.read_bytes())
    assert pickle.loads(pickle.dumps(path)).read_json() == {"a": 1}
    (root / "a").delete()
    assert not path.exists()
    assert root.list() == []


def test_an_impatient_place_keeps_the_options_of_its_uri(s3: Callable[[], str]) -> None:
    uri = s3()
    patient, impatient = (
        StorePath.at(uri, patient=patient).fs.__reduce__()[1][0] for patient in (True, False)
    )
    changed = {key for key in patient if patient[key] != impatient[key]}
    assert changed == {"connect_timeout", "request_timeout"}


@pytest.mark.parametrize("patient", [True, False])
def test_keys_that_are_refused_are_named_without_them(server: S3Server, patient: bool) -> None:
    server_uri = server.uri("bucket/store")
    (StorePath.at(server_uri) / "x").write_bytes(b"data")
    path = StorePath.at(server.uri("bucket/store", secret="wrong-secret"), patient=patient)
    file = path / "x"
    for ask in (path.list, file.read_bytes, file.info, partial(write, path / "y")):
        message = refuse(ask)
        assert "s3://bucket/store" in message
        assert "wrong-secret" not in message and server.key not in message


@pytest.mark.parametrize(
    "uri", ["KEY:SE/CRET@bucket/p", "KEY:SE?CRET@bucket/p", "KEY:SE@CRET@bucket/p"]
)
def test_a_uri_that_is_refused_is_named_without_its_secrets(uri: str) -> None:
    for options in ("", "?KEY=SECRET"):
        with pytest.raises(StoreError, match="bucket/p") as error:
            StorePath.at(f"s3://{uri}{options}")
        assert error.value.__cause__ is None
        for secret in ("KEY:", "SECRET", "CRET@", "SE/", "SE?"):
            assert secret not in str(error.value)


def test_a_server_that_stops_or_hangs_is_an_error_in_time_and_is_found_again(
    server: S3Server,
) -> None:
    uri = server.uri("bucket/store")
    (StorePath.at(uri) / "x").write_bytes(b"data")
    path = StorePath.at(uri, patient=False)
    file = path / "x"
    asks = (path.list, file.read_bytes, path.exists, file.delete, partial(write, path / "y"))
    server.freeze()
    with ThreadPoolExecutor(len(asks)) as pool:
        list(pool.map(refuse, asks))
    server.thaw()
    assert (path / "x").read_bytes() == b"data"
    server.stop()
    with ThreadPoolExecutor(len(asks)) as pool:
        assert all("s3://bucket/store" in message for message in pool.map(refuse, asks))
    server.start()
    (path / "x").write_bytes(b"again")
    assert [(each.name, each.read_bytes()) for each in path.list()] == [("x", b"again")]


def test_a_run_trains_on_s3_as_on_a_disk(s3: Callable[[], str], tmp_path: Path) -> None:
    runs, resources = [], {"cache_dir": str(tmp_path / "cache")}
    for store in (str(tmp_path), s3()):
        features = make_features(StorePath.at(store) / "features" / "made", missing=0.2)
        runs.append(launch(run_config(store, resources=resources)))
    local, remote = runs
    check_coverage(remote, 4)
    assert remote.checkpoint("last").read_bytes()[:2] == b"PK"
    for epoch in range(4):
        assert remote.plan(epoch).read_bytes() == local.plan(epoch).read_bytes()
        assert remote.plan_stats(epoch).read_json() == local.plan_stats(epoch).read_json()
    for epoch in (2, 3):
        assert remote.scores(epoch).read_bytes() == local.scores(epoch).read_bytes()
    plan, scores = BatchPlan.open(remote.plan(3)), Scores.open(remote.scores(3))
    assert plan_statistics(plan, scores=scores)["num_steps"] == len(plan)
    assert inspect(store.replace("?", "/features/made?"))["fingerprint"] == features.fingerprint
    assert inspect(store.replace("?", "/runs/run?"))["kind"] == "run"
    secret = store.split("@")[0].rsplit(":", 1)[1]
    assert secret.encode() not in (remote.path / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"(?=.*\brun\b)(?=.*s3://bucket-)") as error:
        launch(run_config(store, resources=resources))
    assert secret not in str(error.value)
    resumed = launch(run_config(store, resources=resources), resume=True)
    assert resumed.metadata["status"] == "finished"


def upload(store: Path, uri: str) -> StorePath:
    """Copies a store to S3."""
    path = StorePath.at(uri)
    path.fs.create_dir(path.path)
    pafs.copy_files(
        str(store),
        path.path,
        source_filesystem=pafs.LocalFileSystem(),
        destination_filesystem=path.fs,
    )
    return path


@contextmanager
def both(store: Path, uri: str, **settings: Any) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """The same store served from the disk and from S3."""
    upload(store, uri)
    with ExitStack() as stack:
        urls = stack.enter_context(serving(store)), stack.enter_context(serving(uri, **settings))
        local, remote = (
            stack.enter_context(httpx.Client(base_url=url, timeout=SECONDS)) for url in urls
        )
        yield local, remote


def addresses(store: Path) -> list[str]:
    """Addresses whose answers depend on files of all kinds."""
    run = Run.open(StorePath.at(store) / "runs" / "demo-remix-seed0")
    sample = next(iter(BatchPlan.open(run.plan(3)).steps())).rows[0]
    url = f"/v1/runs/{run.path.name}"
    found = [f"{url}/plans/{epoch}/{what}" for epoch in range(4) for what in ("stats", "steps")]
    found += ["/v1/features", "/v1/comparisons", f"{url}/epochs", f"{url}/scores/3/histogram"]
    return [*found, f"{url}/samples/s{sample:04d}"]


@pytest.mark.parametrize("bound", [2**30, 12_000])
def test_the_service_answers_from_s3_as_from_a_disk(
    trained_store: Path, s3: Callable[[], str], tmp_path: Path, bound: int
) -> None:
    folder = tmp_path / "cache"
    assert sum(path.stat().st_size for path in trained_store.rglob("*.arrow")) > 12_000
    with both(trained_store, s3(), cache_dir=folder, cache_size=bound) as (local, remote):
        assert [run["name"] for run in remote.get("/v1/runs").json()["items"]] == [
            "demo-joint-seed0",
            "demo-remix-seed0",
            "demo-unimodal-seed0",
        ]
        for address in addresses(trained_store):
            for accept in ("application/json", ARROW) if "/steps" in address else ("*/*",):
                expected, found = (
                    client.get(address, headers={"Accept": accept}) for client in (local, remote)
                )
                assert (found.status_code, found.content) == (200, expected.content), address
                for header in ("etag", "content-type"):
                    assert found.headers[header] == expected.headers[header]
            assert sum(path.stat().st_size for path in folder.iterdir()) <= bound
    assert list(folder.iterdir())  # a folder that was given stays, for who shares it


def wait_for(ask: Callable[[], bool]) -> None:
    """Asks until it is so."""
    end = time.monotonic() + SECONDS
    while not ask():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_new_plan_on_s3_is_seen(
    trained_store: Path, s3: Callable[[], str], tmp_path: Path
) -> None:
    uri = s3()
    shutil.copytree(trained_store, tmp_path / "store")
    with both(tmp_path / "store", uri) as (_, remote):
        address = "/v1/runs/demo-remix-seed0/plans"
        assert [plan["epoch"] for plan in remote.get(address).json()["items"]] == [0, 1, 2, 3]
        run = Run.open(StorePath.at(uri) / "runs" / "demo-remix-seed0")
        for what in (run.plan_index, run.plan_stats, run.plan):
            what(4).write_bytes(what(3).read_bytes())
        wait_for(lambda: len(remote.get(address).json()["items"]) == 5)
        third, fourth = (remote.get(f"{address}/{epoch}/steps").json() for epoch in (3, 4))
        assert fourth == third


def check_unavailable(answer: httpx.Response, server: S3Server) -> None:
    """Asserts that it says that the store is not there, and nothing about where it was."""
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert not any(
        text in answer.text for text in (server.key, server.secret, "127.0.0.1", "drawer", "folder")
    )


def test_the_service_outlives_a_store_that_stops(trained_store: Path, server: S3Server) -> None:
    uri = server.uri("drawer/folder")
    upload(trained_store, uri)
    with serving(uri) as url, httpx.Client(base_url=url, timeout=SECONDS) as client:
        before = client.get("/v1/features").content
        assert client.get("/readyz").status_code == 200
        server.stop()
        steps = "/v1/runs/demo-remix-seed0/plans/3/steps"
        wait_for(lambda: client.get("/readyz").status_code != 200)
        with ThreadPoolExecutor() as pool:
            for answer in pool.map(client.get, ("/readyz", "/v1/runs", "/v1/features/made", steps)):
                check_unavailable(answer, server)
        assert client.get("/healthz").status_code == 200
        server.start()
        upload(trained_store, uri)
        for address in ("/readyz", "/v1/runs"):
            wait_for(lambda address=address: client.get(address).status_code == 200)
        assert client.get("/v1/features").content == before


def test_a_store_that_hangs_does_not_keep_the_process_from_answering(
    trained_store: Path, server: S3Server
) -> None:
    uri = server.uri("drawer/folder")
    upload(trained_store, uri)
    with serving(uri) as url, ThreadPoolExecutor(61) as pool:
        server.freeze()
        addresses = ["/readyz", *["/v1/runs"] * 60]  # more than the service has threads
        waiting = [pool.submit(httpx.get, url + address, timeout=SECONDS) for address in addresses]
        assert httpx.get(f"{url}/healthz", timeout=SECONDS).status_code == 200
        assert not any(each.done() for each in waiting)
        for each in waiting:
            check_unavailable(each.result(), server)
        server.thaw()
        for address in ("/readyz", "/v1/runs"):
            ask = partial(httpx.get, url + address, timeout=SECONDS)
            wait_for(lambda ask=ask: ask().status_code == 200)
