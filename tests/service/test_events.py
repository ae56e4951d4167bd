"""Server-sent events of a run, over real connections."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http_client import RUN
from tests.support.serving import serve_command, serving
from tests.support.trained_run import JSON, edit_json

EVENTS = f"{RUN}/events"


def events_of(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream; `data` is parsed, and comments are not events."""
    event: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if not line:
            if "data" in event:
                yield event
            event = {}
        elif name:
            event[name] = json.loads(value) if name == "data" else value


@pytest.fixture
def live(store: Path) -> Path:
    """A store whose run trains."""
    edit_json(store / JSON, status="running", result=None)
    return store


def test_a_change_is_an_event_and_the_end_of_the_run_the_last(live: Path) -> None:
    with serving(live, token="secret") as url, httpx.Client(base_url=url, timeout=20) as client:
        assert client.get(EVENTS).status_code == 401
        client.headers["Authorization"] = "Bearer secret"
        with client.stream("GET", EVENTS, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store, no-transform"
            assert not {"etag", "content-encoding"} & response.headers.keys()
            events = events_of(response.iter_lines())
            first = next(events)
            assert (first["event"], first["data"]["status"]) == ("progress", "running")
            counts = {"num_epochs": 4, "num_plans": 4, "num_scores": 2}
            assert counts.items() <= first["data"].items()
            assert first["id"] == first["data"]["version"]
            Path(live / "runs/demo-remix-seed0/plans/epoch-0003.arrow").unlink()
            second = next(events)
            assert second["data"]["num_plans"] == 3
            edit_json(live / JSON, status="failed", error="no memory")
            third = next(events)
            assert (third["event"], third["data"]["status"]) == ("end", "failed")
            assert list(events) == []
        assert len({first["id"], second["id"], third["id"]}) == 3
        assert client.get(EVENTS, headers={"Last-Event-ID": third["id"]}).status_code == 204
        again = client.get(EVENTS, headers={"Last-Event-ID": second["id"]})
        assert list(events_of(again.iter_lines())) == [third]
        assert client.head(EVENTS).content == b""
        assert client.get(EVENTS, headers={"Accept": "text/csv"}).status_code == 406


def test_a_reconnected_client_gets_only_what_is_new(live: Path) -> None:
    with serving(live) as url, httpx.Client(base_url=url, timeout=20) as client:
        with client.stream("GET", EVENTS) as response:
            seen = next(events_of(response.iter_lines()))["id"]
        with client.stream("GET", EVENTS, headers={"Last-Event-ID": seen}) as response:
            events = events_of(response.iter_lines())
            (live / JSON).write_text("{")
            assert next(events)["data"]["status"] == "damaged"
            assert list(events) == []
        assert client.get("/v1/runs/nobody/events").status_code == 404


def test_streams_are_bounded_and_end_with_their_client(live: Path) -> None:
    with serving(live, max_event_streams=1) as url, httpx.Client(base_url=url) as client:
        with client.stream("GET", EVENTS):
            refused = client.get(EVENTS)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert "REMIX_MAX_EVENT_STREAMS" in refused.json()["detail"]
        deadline = time.monotonic() + 10
        while True:
            with client.stream("GET", EVENTS) as response:
                if response.status_code == 200:
                    break
            assert time.monotonic() < deadline


def test_many_streams_leave_the_threads_to_other_requests(live: Path) -> None:
    with serving(live) as url, httpx.Client(base_url=url) as client:
        streams = [client.stream("GET", EVENTS) for _ in range(60)]
        assert {stream.__enter__().status_code for stream in streams} == {200}
        assert client.get(RUN, timeout=5).status_code == 200
        for stream in streams:
            stream.__exit__(None, None, None)


def test_an_open_stream_does_not_delay_the_shutdown(live: Path, tmp_path: Path) -> None:
    with serve_command("--store", str(live), log=tmp_path / "log") as (url, process):
        lines: list[str] = []
        opened = threading.Event()

        def follow() -> None:
            with httpx.stream("GET", f"{url}{EVENTS}", timeout=30) as response:
                for line in response.iter_lines():
                    lines.append(line)
                    if line.startswith("event:"):
                        opened.set()

        client = threading.Thread(target=follow)
        client.start()
        assert opened.wait(10)
        start = time.monotonic()
        process.terminate()
        assert process.wait(20) == 0
        client.join(5)
        assert not client.is_alive()  # the stream ended, and not by an error
        assert time.monotonic() - start < 5
    assert "Cancel" not in (tmp_path / "log").read_text()
