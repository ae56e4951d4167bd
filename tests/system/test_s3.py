"""A store on S3, over real HTTP: places, a training run, copies, the service, and what happens when the server goes and comes back."""

import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
from pipeline.storage.node_cache import NodeCache, RemoteFile
from pipeline.storage.store_path import Place
from service.http.responses import ARROW
from tests.support.object_store import S3Server
from tests.support.serving import serving
from tests.support.stores import bytes_at_once, check_coverage, make_features, run_config
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


@pytest.mark.parametrize("patient", [True, False])
def test_a_place_on_s3_is_as_good_as_a_folder(s3: Callable[[], str], patient: bool) -> None:
    root = Place.at(s3(), patient=patient)
    place = root / "a" / "b.json"
    assert root.list() == []
    assert not place.exists()
    with pytest.raises(MissingError, match=r"b\.json"):
        place.read_bytes()
    with pytest.raises(RuntimeError), place.create() as file:
        file.write(b"half")
        raise RuntimeError
    assert not place.exists()
    place.write_json({"b": [1, 2]})
    place.write_json({"a": 1})
    assert place.read_json() == {"a": 1}
    assert not place.claim(b"taken")
    assert [entry.name for entry in root.list()] == ["a"]
    assert [entry.name for entry in (root / "a").list()] == ["b.json"]
    assert place.info().size == len(place.read_bytes())
    assert pickle.loads(pickle.dumps(place)).read_json() == {"a": 1}
    (root / "a").delete()
    assert not place.exists()
    assert root.list() == []


def test_an_impatient_place_keeps_the_options_of_its_uri(s3: Callable[[], str]) -> None:
    uri = s3()
    patient, impatient = (
        Place.at(uri, patient=patient).fs.__reduce__()[1][0] for patient in (True, False)
    )
    changed = {key for key in patient if patient[key] != impatient[key]}
    assert changed == {"connect_timeout", "request_timeout"}


@pytest.mark.parametrize("patient", [True, False])
def test_keys_that_are_refused_are_named_without_them(server: S3Server, patient: bool) -> None:
    server_uri = server.uri("bucket/store")
    (Place.at(server_uri) / "x").write_bytes(b"data")
    place = Place.at(server.uri("bucket/store", secret="wrong-secret"), patient=patient)
    for ask in (
        place.list,
        (place / "x").read_bytes,
        (place / "x").info,
        lambda: (place / "y").write_bytes(b""),
    ):
        message = refuse(ask)
        assert "s3://bucket/store" in message
        assert "wrong-secret" not in message and server.key not in message


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:SE/CRET@bucket/p",
        "s3://KEY:SE?CRET@bucket/p",
        "s3://KEY:SE@CRET@bucket/p",
        "s3://KEY:SECRET@bucket/p?KEY=SECRET",
    ],
)
def test_a_uri_that_is_refused_is_named_without_its_secrets(uri: str) -> None:
    with pytest.raises(StoreError, match="bucket/p") as error:
        Place.at(uri)
    assert error.value.__cause__ is None
    assert not any(
        secret in str(error.value) for secret in ("KEY:", "SECRET", "CRET@", "SE/", "SE?")
    )


def test_a_server_that_stops_or_hangs_is_an_error_in_time_and_is_found_again(
    server: S3Server,
) -> None:
    uri = server.uri("bucket/store")
    (Place.at(uri) / "x").write_bytes(b"data")
    place = Place.at(uri, patient=False)
    asks = (
        place.list,
        (place / "x").read_bytes,
        place.exists,
        (place / "x").delete,
        lambda: (place / "y").write_bytes(b""),
    )
    server.freeze()
    with ThreadPoolExecutor(len(asks)) as pool:
        list(pool.map(refuse, asks))
    server.thaw()
    assert (place / "x").read_bytes() == b"data"
    server.stop()
    for ask in asks:
        assert "s3://bucket/store" in refuse(ask)
    server.start()
    (place / "x").write_bytes(b"again")
    assert [(each.name, each.read_bytes()) for each in place.list()] == [("x", b"again")]


def test_a_run_trains_on_s3_as_on_a_disk(s3: Callable[[], str], tmp_path: Path) -> None:
    runs, resources = [], {"cache_dir": str(tmp_path / "cache")}
    for store in (str(tmp_path), s3()):
        features = make_features(Place.at(store) / "features" / "made", missing=0.2)
        runs.append(launch(run_config(store, resources=resources)))
    local, remote = runs
    check_coverage(remote, 4)
    assert remote.checkpoint("last").read_bytes()[:2] == b"PK"
    for epoch in range(4):
        assert remote.plan(epoch).read_bytes() == local.plan(epoch).read_bytes()
        assert remote.plan_stats(epoch).read_json() == local.plan_stats(epoch).read_json()
    for epoch in (2, 3):
        assert (
            Scores.open(remote.scores(epoch)).fingerprint
            == Scores.open(local.scores(epoch)).fingerprint
        )
    assert plan_statistics(BatchPlan.open(remote.plan(3)), scores=Scores.open(remote.scores(3)))[
        "num_steps"
    ] == len(BatchPlan.open(remote.plan(3)))
    assert inspect(store.replace("?", "/features/made?"))["fingerprint"] == features.fingerprint
    assert inspect(store.replace("?", "/runs/run?"))["kind"] == "run"
    secret = store.split("@")[0].rsplit(":", 1)[1]
    assert secret.encode() not in (remote.place / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"(?=.*\brun\b)(?=.*s3://bucket-)") as error:
        launch(run_config(store, resources=resources))
    assert secret not in str(error.value)
    assert launch(run_config(store, resources=resources), resume=True).facts["status"] == "finished"


def test_copies_of_files_on_s3(server: S3Server, tmp_path: Path) -> None:
    place = Place.at(server.uri("bucket/store"), patient=False) / "x"
    data = bytes(range(256)) * 50_000

    def put() -> RemoteFile:
        place.write_bytes(data)
        mtime_ns = place.info().mtime_ns
        return RemoteFile(place=place, sha256=None, num_bytes=len(data), mtime_ns=mtime_ns)

    file, cache = put(), NodeCache(tmp_path / "cache", len(data))
    server.stop()
    refuse(lambda: cache.map(file))
    assert list(cache.folder.iterdir()) == []
    server.start()
    (place.parent / "y").write_bytes(b"")
    with pytest.raises(MissingError, match=r"store/x\b"):  # started again, it is empty
        cache.map(file)
    file = put()
    copy = cache.map(file)
    assert copy and copy.to_pybytes() == data
    server.stop()
    assert cache.map(file) == copy


def upload(store: Path, uri: str) -> Place:
    """Copies a store to S3."""
    place = Place.at(uri)
    place.fs.create_dir(place.path)
    pafs.copy_files(
        str(store),
        place.path,
        source_filesystem=pafs.LocalFileSystem(),
        destination_filesystem=place.fs,
    )
    return place


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
    run = Run.open(Place.at(store) / "runs" / "demo-remix-seed0")
    sample = next(iter(BatchPlan.open(run.plan(3)).steps())).rows[0]
    plan = f"/v1/runs/{run.place.name}/plans"
    found = [f"{plan}/{epoch}{more}" for epoch in range(4) for more in ("/stats", "/steps")]
    found += [
        "/v1/features",
        "/v1/comparisons",
        f"/v1/runs/{run.place.name}/epochs",
        f"/v1/runs/{run.place.name}/samples/s{sample:04d}",
    ]
    return [*found, f"/v1/runs/{run.place.name}/scores/3/histogram"]


def test_the_service_answers_from_s3_as_from_a_disk(
    trained_store: Path, s3: Callable[[], str], tmp_path: Path
) -> None:
    with both(trained_store, s3(), cache_dir=tmp_path / "cache") as (local, remote):
        assert [run["name"] for run in remote.get("/v1/runs").json()["items"]] == [
            "demo-joint-seed0",
            "demo-remix-seed0",
        ]
        for address in addresses(trained_store):
            expected = local.get(address)
            assert expected.status_code == 200, address
            found = remote.get(address)
            assert (found.status_code, found.content, found.headers["etag"]) == (
                200,
                expected.content,
                expected.headers["etag"],
            ), address
        for epoch in range(4):
            address = f"/v1/runs/demo-remix-seed0/plans/{epoch}/steps"
            expected, found = (
                client.get(address, headers={"Accept": ARROW}) for client in (local, remote)
            )
            assert found.headers["content-type"] == ARROW
            assert (found.content, found.headers["etag"]) == (
                expected.content,
                expected.headers["etag"],
            )
        assert (tmp_path / "cache").is_dir()
    assert (tmp_path / "cache").is_dir()  # a folder that was given stays, for who shares it


def test_copies_never_take_more_than_they_may(
    trained_store: Path, s3: Callable[[], str], tmp_path: Path
) -> None:
    bound, folder = 12_000, tmp_path / "cache"
    sizes = sorted(path.stat().st_size for path in trained_store.rglob("*.arrow"))
    assert sizes[0] < bound < sum(sizes)
    totals: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            totals.append(bytes_at_once(folder))

    with both(trained_store, s3(), cache_dir=folder, cache_size=bound) as (local, remote):
        expected = {address: local.get(address).content for address in addresses(trained_store)}
        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda address: (address, remote.get(address)), [*expected] * 4))
        done.set()
        watcher.join()
        assert [
            (address, answer.status_code)
            for address, answer in found
            if answer.content != expected[address]
        ] == []
    assert 0 < max(totals) <= bound


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
        run = Run.open(Place.at(uri) / "runs" / "demo-remix-seed0")
        for what in (run.plan_index, run.plan_stats, run.plan):
            what(4).write_bytes(what(3).read_bytes())
        wait_for(
            lambda: (
                [plan["epoch"] for plan in remote.get(address).json()["items"]] == [0, 1, 2, 3, 4]
            )
        )
        assert remote.get(f"{address}/4/steps").json() == remote.get(
            f"{address}/3/steps"
        ).json() | {"next": None}


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
        for address in (
            "/readyz",
            "/v1/runs",
            "/v1/features/made",
            "/v1/runs/demo-remix-seed0/plans/3/steps",
        ):
            wait_for(lambda address=address: client.get(address).status_code != 200)
            check_unavailable(client.get(address), server)
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
            wait_for(
                lambda address=address: httpx.get(url + address, timeout=SECONDS).status_code == 200
            )
