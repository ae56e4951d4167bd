"""The service over a real store and real HTTP: what it says is what the files say."""

import gzip
import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.features.feature_set import FeatureSet, read_table
from pipeline.plans.plan import BatchPlan
from pipeline.scores.table import Scores
from pipeline.storage.schemas import fingerprint
from pipeline.storage.store_path import Place
from service.http.responses import ARROW
from tests.support.serving import log_lines, serve_command, serving
from trainer.run_directory import Run

RUN = "/v1/runs/demo-remix-seed0"
PLAN = f"{RUN}/plans/2"


@pytest.fixture(scope="module")
def client(trained_store: Path) -> Iterator[httpx.Client]:
    with serving(trained_store) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def run(trained_store: Path) -> Run:
    return Run.open(Place.at(trained_store / "runs" / "demo-remix-seed0"))


def get(client: httpx.Client, url: str, status: int = 200) -> Any:
    answer = client.get(url)
    assert answer.status_code == status, answer.text
    return answer.json()


def walk(client: httpx.Client, url: str) -> Iterator[Any]:
    """All items of a list, page by page."""
    following: str | None = url
    while following:
        answer = client.get(following)
        page = answer.json()
        yield from page["items"]
        following = page["next"]
        assert answer.links.get("next", {}).get("url") == following


def test_runs_are_what_their_folders_say(client: httpx.Client, run: Run) -> None:
    listed = get(client, "/v1/runs")
    assert [item["name"] for item in listed["items"]] == ["demo-joint-seed0", "demo-remix-seed0"]
    assert listed["next"] is None
    detail, facts = get(client, RUN), run.facts
    assert detail["status"] == "finished"
    assert detail["test_accuracy"] == facts["result"]["test_accuracy"]
    assert detail["best"] == {
        "epoch": facts["result"]["best_epoch"],
        "validation_accuracy": facts["result"]["validation_accuracy"],
    }
    assert (detail["plans"], detail["scores"]) == ([0, 1, 2, 3], [2, 3])
    assert detail["config"] == {
        key: value for key, value in facts["config"].items() if key != "store"
    }
    assert {key: value for key, value in detail.items() if key in listed["items"][1]} == listed[
        "items"
    ][1]


def test_epochs_are_the_rows_of_the_table(client: httpx.Client, run: Run) -> None:
    rows = run.epochs().to_pylist()
    items = list(walk(client, f"{RUN}/epochs?limit=3"))
    assert len(items) == len(rows) == 4
    for item, row in zip(items, rows, strict=True):
        assert all(
            item[key] == row[key]
            for key in (
                "epoch",
                "policy",
                "num_steps",
                "num_rows",
                "train_loss",
                "validation_accuracy",
                "churn",
            )
        )
        for name in ("sound", "sight", "touch"):
            keys = (
                "share",
                "train_accuracy",
                "validation_accuracy",
                "gradient_cosine",
                "zero_mask_accuracy",
            )
            assert item["modalities"][name] == {key: row[f"{key}_{name}"] for key in keys}
        assert item["seconds"] == {
            key: row[f"{key}_seconds"]
            for key in ("score", "plan", "load", "step", "validate", "epoch")
        }


def test_plans_and_their_statistics_are_those_that_were_stored(
    client: httpx.Client, run: Run
) -> None:
    items = list(walk(client, f"{RUN}/plans?limit=2"))
    assert [(item["epoch"], item["policy"], item["has_scores"]) for item in items] == [
        (0, "joint", False),
        (1, "joint", False),
        (2, "kl", True),
        (3, "kl", True),
    ]
    for item in items:
        epoch = item["epoch"]
        plan, stats = BatchPlan.open(run.plan(epoch)), run.plan_stats(epoch).read_json()
        detail = get(client, f"{RUN}/plans/{epoch}")
        assert detail | item == detail
        assert detail["fingerprint"] == plan.fingerprint
        assert detail["parents"] == plan.metadata["parents"]
        assert detail["num_steps"] == len(plan)
        assert detail["bytes"] == run.plan(epoch).info().size
        assert get(client, f"{RUN}/plans/{epoch}/stats") == stats


def test_steps_in_pages_are_the_plan(client: httpx.Client, run: Run) -> None:
    plan = BatchPlan.open(run.plan(2))
    steps = [
        {"step": step.step, "modality": step.modality, "rows": step.rows.tolist()}
        for step in plan.steps()
    ]
    assert get(client, f"{PLAN}/steps")["items"] == steps
    for limit in (1, 2, 5):
        assert list(walk(client, f"{PLAN}/steps?limit={limit}")) == steps
        for modality in ("sound", "sight", "touch"):
            wanted = [step for step in steps if step["modality"] == modality]
            assert wanted
            assert list(walk(client, f"{PLAN}/steps?limit={limit}&modality={modality}")) == wanted
    assert get(client, f"{PLAN}/steps?start=3&limit=2")["items"] == steps[3:5]
    assert get(client, f"{PLAN}/steps?start=2000000000") == {"items": [], "next": None}
    detail = get(client, f"{PLAN}/steps?modality=smell", 404)["detail"]
    assert all(name in detail for name in ("sound", "sight", "touch"))


def test_steps_as_arrow_are_the_plan_with_its_metadata(client: httpx.Client, run: Run) -> None:
    plan = BatchPlan.open(run.plan(2))
    answer = client.get(f"{PLAN}/steps", headers={"Accept": ARROW})
    assert answer.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.equals(plan.table, check_metadata=True)
    assert fingerprint(table, plan.metadata) == plan.fingerprint
    part = pa.ipc.open_stream(
        client.get(f"{PLAN}/steps?start=2&limit=3", headers={"Accept": ARROW}).content
    ).read_all()
    assert part.equals(plan.table.slice(2, 3))
    one = pa.ipc.open_stream(
        client.get(
            f"{PLAN}/steps?modality=touch",
            headers={"Accept": f"{ARROW};q=0.9, application/json;q=0.1"},
        ).content
    ).read_all()
    assert set(one["modality"].to_pylist()) == {"touch"}
    assert (
        client.get(f"{PLAN}/steps", headers={"Accept": f"application/json, {ARROW};q=0.5"}).headers[
            "content-type"
        ]
        == "application/json"
    )


def test_histograms_are_those_of_the_statistics(client: httpx.Client, run: Run) -> None:
    stored = run.plan_stats(3).read_json()["histograms"]
    found = get(client, f"{RUN}/scores/3/histogram")
    scores = Scores.open(run.scores(3))
    assert (found["num_rows"], found["num_classes"]) == (len(scores), 3)
    for name, histograms in found["modalities"].items():
        assert histograms["num_missing"] == stored[name]["num_missing"]
        for what in ("kl", "difficulty"):
            assert histograms[what] == stored[name][what] | {"assigned": None}
    few = get(client, f"{RUN}/scores/3/histogram?bins=3")["modalities"]["touch"]["kl"]
    assert len(few["counts"]) == 3
    assert sum(few["counts"]) + found["modalities"]["touch"]["num_missing"] == len(scores)
    assert re.search(r"(?<![\w-])0\b", get(client, f"{RUN}/scores/0/histogram", 404)["detail"])


def test_a_samples_story_is_what_a_scan_finds(
    client: httpx.Client, run: Run, trained_store: Path
) -> None:
    features = FeatureSet.open(Place.at(trained_store / "features" / "made"))
    plans = {
        epoch: {
            row: step
            for step in BatchPlan.open(run.plan(epoch)).steps()
            for row in step.rows.tolist()
        }
        for epoch in range(4)
    }
    scores = {
        epoch: {row["row"]: row for row in Scores.open(run.scores(epoch)).table.to_pylist()}
        for epoch in (2, 3)
    }
    seen = set()
    for sample in features.samples.to_pylist():
        story = get(client, f"{RUN}/samples/{sample['sample_id']}")
        row = sample["row"]
        assert {key: story[key] for key in ("row", "sample_id", "label", "split", "shard")} == {
            key: sample[key] for key in ("row", "sample_id", "label", "split", "shard")
        }
        assert story["class_name"] == features.classes[sample["label"]]
        assert story["has"] == {name: sample[f"has_{name}"] for name in features.modalities}
        assert [epoch["epoch"] for epoch in story["epochs"]] == [0, 1, 2, 3]
        for epoch in story["epochs"]:
            step = plans[epoch["epoch"]].get(row)
            assert (epoch["step"], epoch["assigned"]) == (
                (step.step, step.modality) if step else (None, None)
            )
            scored = scores.get(epoch["epoch"], {}).get(row)
            assert (epoch["modalities"] is None) == (scored is None)
            for name, facts in (epoch["modalities"] or {}).items():
                missing = not sample[f"has_{name}"]
                assert facts["kl"] == (None if missing else pytest.approx(scored[f"kl_{name}"]))
                assert facts["predicted"] == (None if missing else scored[f"predicted_{name}"])
                assert missing or facts["difficulty"] == pytest.approx(
                    min(max(1 - facts["kl"] / 1.584962500721156, 0), 1)
                )
                seen.add(missing)
    assert seen == {True, False}
    assert "nobody" in get(client, f"{RUN}/samples/nobody", 404)["detail"]
    assert get(client, f"{RUN}/samples/a%2Fb/c", 404)["instance"].endswith("/samples/a/b/c")


def test_features_and_comparisons_are_what_their_files_say(
    client: httpx.Client, trained_store: Path
) -> None:
    manifest = json.loads((trained_store / "features" / "made" / "manifest.json").read_text())
    detail = get(client, "/v1/features/made")
    assert all(
        detail[key] == manifest[key] for key in ("classes", "splits", "num_rows", "fingerprint")
    )
    assert detail["modalities"]["touch"]["shape"] == [6, 8]
    assert [item["name"] for item in walk(client, "/v1/features")] == ["made"]
    samples = FeatureSet.open(Place.at(trained_store / "features" / "made")).samples.to_pylist()
    listed = list(walk(client, "/v1/features/made/samples?limit=70"))
    assert [(item["row"], item["sample_id"], item["has"]["touch"]) for item in listed] == [
        (row["row"], row["sample_id"], row["has_touch"]) for row in samples
    ]
    assert get(client, "/v1/features/made/samples?start=17&limit=1")["items"] == listed[17:18]
    table = json.loads((trained_store / "comparisons" / "demo" / "table.json").read_text())
    found = get(client, "/v1/comparisons/demo")
    assert found["tests"] == table["tests"]
    assert [method["accuracy"] for method in found["methods"]] == [
        method["accuracy"] for method in table["methods"]
    ]
    curves = read_table(Place.at(trained_store / "comparisons" / "demo" / "curves.arrow"))
    points = list(walk(client, "/v1/comparisons/demo/curves?limit=3"))
    assert [
        (point["method"], point["epoch"], point["validation_accuracy"]) for point in points
    ] == list(
        zip(
            *(curves[name].to_pylist() for name in ("method", "epoch", "validation_accuracy")),
            strict=True,
        )
    )
    assert get(client, "/v1/comparisons")["items"] == [
        {"name": "demo", "status": "finished", "methods": ["joint", "remix"], "seeds": [0]}
    ]


def test_rejected_samples_are_listed_with_their_reasons(tmp_path: Path) -> None:
    from pipeline.features.feature_set import write_table
    from pipeline.storage.schemas import REJECTED
    from tests.support.stores import make_features

    make_features(tmp_path / "features" / "made")
    rows = [
        {
            "shard": "a.tar",
            "sample_id": f"x{i}",
            "stage": "video",
            "reason": "truncated",
            "error": "ends early",
        }
        for i in range(5)
    ]
    write_table(
        Place.at(tmp_path / "features" / "made" / "rejected.arrow"),
        pa.Table.from_pylist(rows, REJECTED),
    )
    with serving(tmp_path) as url, httpx.Client(base_url=url) as client:
        assert list(walk(client, "/v1/features/made/rejected?limit=2")) == rows


@pytest.mark.parametrize(
    "url",
    [
        f"{PLAN}/steps",
        f"{PLAN}/stats",
        PLAN,
        RUN,
        f"{RUN}/epochs",
        "/v1/runs",
        "/v1/features/made",
        f"{RUN}/samples/s0001",
        "/",
        "/assets/plotly.min.js",
    ],
)
def test_what_a_client_has_is_not_sent_again(client: httpx.Client, url: str) -> None:
    for encoding in ("identity", "gzip"):
        first = client.get(url, headers={"Accept-Encoding": encoding})
        etag = first.headers["etag"]
        assert re.fullmatch(r'"[^"]+"', etag)
        for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = client.get(url, headers={"If-None-Match": given, "Accept-Encoding": encoding})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert (
            client.get(
                url, headers={"If-None-Match": '"other"', "Accept-Encoding": encoding}
            ).content
            == first.content
        )
        head = client.head(url, headers={"Accept-Encoding": encoding})
        assert (
            head.status_code,
            head.content,
            head.headers["etag"],
            head.headers["content-length"],
        ) == (200, b"", etag, first.headers["content-length"])


def test_json_is_compressed_for_those_who_take_it(client: httpx.Client) -> None:
    url = f"{PLAN}/stats"
    raw = {}
    for encoding in ("gzip", "identity", "gzip;q=0"):
        with client.stream("GET", url, headers={"Accept-Encoding": encoding}) as answer:
            raw[encoding] = (
                b"".join(answer.iter_raw()),
                answer.headers.get("content-encoding"),
                answer.headers["etag"],
            )
    assert raw["identity"] == raw["gzip;q=0"]
    assert raw["identity"][1] is None
    assert raw["gzip"][1] == "gzip"
    assert gzip.decompress(raw["gzip"][0]) == raw["identity"][0]
    assert raw["gzip"][2] != raw["identity"][2]


def test_a_header_may_come_in_several_lines(client: httpx.Client) -> None:
    etag = client.get("/v1/runs").headers["etag"]
    assert (
        client.get(
            "/v1/runs", headers=[("If-None-Match", '"other"'), ("If-None-Match", etag)]
        ).status_code
        == 304
    )
    assert (
        client.get(f"{PLAN}/steps", headers=[("Accept", "text/html"), ("Accept", ARROW)]).headers[
            "content-type"
        ]
        == ARROW
    )
    assert (
        client.get(
            f"{PLAN}/stats", headers=[("Accept-Encoding", "br"), ("Accept-Encoding", "gzip")]
        ).headers["content-encoding"]
        == "gzip"
    )


def test_the_next_page_lies_where_the_proxy_sees_it(trained_store: Path) -> None:
    with serving(trained_store, root_path="/remix") as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/runs?limit=1").json()["next"] == "/remix/v1/runs?limit=1&start=1"
        answer = client.get(f"{RUN}/plans/%202/steps?limit=1")
        assert answer.json()["next"] == f"/remix{RUN}/plans/%202/steps?limit=1&start=1"
        assert answer.links["next"]["url"] == answer.json()["next"]


def test_what_cannot_change_is_immutable_and_nothing_else(client: httpx.Client) -> None:
    for url in (
        PLAN,
        f"{PLAN}/stats",
        f"{PLAN}/steps",
        f"{RUN}/scores/3/histogram",
        "/v1/features/made",
    ):
        assert "immutable" in client.get(url).headers["cache-control"]
        assert "accept" in client.get(url).headers["vary"].lower()
    assert (
        "immutable"
        in client.get(f"{PLAN}/steps", headers={"Accept": ARROW}).headers["cache-control"]
    )
    for url in (
        "/v1/runs",
        RUN,
        f"{RUN}/epochs",
        f"{RUN}/plans",
        f"{RUN}/samples/s0001",
        "/v1/features",
    ):
        assert "no-cache" in client.get(url).headers["cache-control"]
    assert client.get("/v1/runs/nobody").headers["cache-control"] == "no-store"


def test_every_error_is_a_problem(client: httpx.Client, trained_store: Path) -> None:
    cases = [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/runs/", 404),
        ("GET", "/v1/runs/nobody", 404),
        ("GET", f"{RUN}/plans/99", 404),
        ("GET", f"{RUN}/plans/x", 422),
        ("GET", f"{RUN}/plans/-1", 422),
    ]
    cases += [
        ("GET", f"{PLAN}/steps?limit=0", 422),
        ("GET", f"{PLAN}/steps?limit=1001", 422),
        ("GET", f"{PLAN}/steps?modalty=touch", 422),
        ("GET", "/v1/runs?start=x&start=0", 422),
        ("GET", "/v1/runs?x=1", 422),
    ]
    cases += [
        ("POST", "/v1/runs", 405),
        ("DELETE", RUN, 405),
        ("PUT", "/", 405),
        ("GET", f"{RUN}/scores/3/histogram?bins=0", 422),
        ("GET", "/assets/app.py", 404),
    ]
    for method, url, status in cases:
        answer = client.request(method, url)
        assert answer.status_code == status, url
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert (body["status"], body["instance"]) == (status, url.split("?")[0])
        assert body["request_id"] == answer.headers["x-request-id"]
        assert {"type", "title", "detail"} <= body.keys()
        assert str(trained_store) not in answer.text
        assert "Traceback" not in answer.text
        if status == 405:
            assert answer.headers["allow"] == "GET, HEAD"


HOSTILE = [
    "..",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "demo%00",
    "a" * 65,
    "a" * 8000,
    "demo-remix-seed0%0a",
    ".hidden",
    "-x",
    "demo/../..",
    "%5c..%5c",
    "~root",
]
HOSTILE += [
    "d%D0%B5mo",
    "%EF%BC%8E%EF%BC%8E",
    "%ff%fe",
    "%ed%a0%80",
    "demo-remix-seed0%20",
    "*",
    "%25%32%65",
    "con",
    "demo%2Dremix%2Dseed0%2f..",
    "%c0%ae%c0%ae",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_never_reach_the_file_system_unchecked(client: httpx.Client, name: str) -> None:
    parts = urlsplit(str(client.base_url))
    for template in (
        "/v1/runs/{}",
        "/v1/features/{}",
        "/v1/runs/{}/plans/0/steps",
        "/v1/comparisons/{}",
        "/assets/{}",
        "/v1/runs/demo-remix-seed0/samples/{}",
        "/v1/runs/demo-remix-seed0/plans/{}",
    ):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        connection.putrequest(
            "GET", template.format(name), skip_accept_encoding=True
        )  # as it stands: no client tidies it
        connection.endheaders()
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        assert answer.status in (404, 422), (template, name, body)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "root:" not in json.dumps(body)


def test_the_token_guards_what_is_in_the_store(trained_store: Path) -> None:
    with serving(trained_store, token="se-cret\n") as url, httpx.Client(base_url=url) as client:
        open_ones = {
            path: client.get(path).status_code
            for path in (
                "/healthz",
                "/readyz",
                "/",
                "/assets/plotly.min.js",
                "/docs",
                "/openapi.json",
            )
        }
        assert set(open_ones.values()) == {200}
        guarded = [
            path.format(run="demo-remix-seed0", epoch=2, name="made", sample_id="s0001")
            for path in client.get("/openapi.json").json()["paths"]
            if path.startswith("/v1")
        ]
        for path in [*guarded, "/metrics"]:
            for header in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Bearer"},
                {"Authorization": "Basic se-cret"},
                {"Authorization": "se-cret"},
            ):
                answer = client.get(path, headers=header)
                assert answer.status_code == 401, (path, header)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.headers["content-type"] == "application/problem+json"
            found = client.get(path, headers={"Authorization": "Bearer se-cret"})
            assert found.status_code in (200, 404), path  # /v1/comparisons/made is not there
            assert "public" not in found.headers["cache-control"]
        assert (
            client.get("/v1/runs/nobody/plans/x").status_code == 401
        )  # who may not ask learns nothing


def test_metrics_tell_requests_and_the_balance_of_the_newest_plan(
    trained_store: Path, run: Run
) -> None:
    with serving(trained_store) as url, httpx.Client(base_url=url) as client:
        for _ in range(3):
            client.get(f"{PLAN}/stats")
        client.get("/v1/runs/nobody")
        client.get("/nowhere/at/all")
        families = {
            family.name: family.samples
            for family in text_string_to_metric_families(client.get("/metrics").text)
        }
    requests = {
        tuple(sample.labels.values()): sample.value
        for sample in families["remix_http_requests"]
        if sample.name.endswith("_total")
    }
    assert requests["GET", "/v1/runs/{run}/plans/{epoch}/stats", "200"] == 3
    assert requests["GET", "/v1/runs/{run}", "404"] == 1
    assert requests["GET", "unmatched", "404"] == 1
    assert any(sample.value > 0 for sample in families["remix_http_response_bytes"])
    assert {sample.labels["route"] for sample in families["remix_http_request_seconds"]} >= {
        "/v1/runs/{run}/plans/{epoch}/stats",
        "unmatched",
    }
    assert (
        families["remix_runs"][0].value,
        families["remix_plans"][0].value,
        families["remix_store_up"][0].value,
    ) == (2, 8, 1)
    assert families["remix_newest_plan_age_seconds"][0].value >= 0
    stats = run.plan_stats(3).read_json()
    assert {
        sample.labels["modality"]: sample.value for sample in families["remix_newest_plan_steps"]
    } == {name: facts["num_steps"] for name, facts in stats["modalities"].items()}
    assert families["remix_newest_plan_churn"][0].value == stats["churn"]


def test_the_document_describes_every_route(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["tags"] and operation["description"] for operation in operations)
    assert all(set(path) == {"get"} for path in document["paths"].values())
    wanted = """/healthz /readyz /metrics /v1/features /v1/features/{name} /v1/runs /v1/runs/{run} /v1/runs/{run}/plans /v1/runs/{run}/plans/{epoch}
        /v1/runs/{run}/plans/{epoch}/stats /v1/runs/{run}/plans/{epoch}/steps /v1/runs/{run}/scores/{epoch}/histogram
        /v1/runs/{run}/samples/{sample_id} /v1/runs/{run}/epochs"""
    assert set(wanted.split()) <= set(document["paths"])
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", []):
            jsonschema.validate(example, {**schema, "components": document["components"]})
        if name.startswith("Page_"):
            assert {"items", "next"} == schema["properties"].keys()
    examples = [
        schema for schema in document["components"]["schemas"].values() if schema.get("examples")
    ]
    assert len(examples) >= 15
    page = client.get("/docs").text
    assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", page)
    for asset in re.findall(r"(?:src|href)=[\"'](/[^\"']+)", page):
        assert client.get(asset).status_code == 200


def test_the_service_writes_nothing_into_the_store(trained_store: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in trained_store.rglob("*")
        }

    before = state()
    with serving(trained_store) as url, httpx.Client(base_url=url) as client:
        for path in client.get("/openapi.json").json()["paths"]:
            name = "demo" if "comparisons" in path else "made"
            assert client.get(
                path.format(run="demo-remix-seed0", epoch=2, name=name, sample_id="s0001")
            ).status_code in (200, 404)
    assert state() == before


def test_the_command_serves_logs_json_and_stops_when_told(
    trained_store: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with serve_command("--store", str(trained_store), log=log) as (url, process):
        assert (
            httpx.get(f"{url}/v1/runs", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"]
            == "mine-1"
        )
        forged = httpx.get(
            f"{url}/v1/runs/x%0a%C2%85%E2%80%A8y?z=%22", headers={"X-Request-ID": 'a"b'}
        ).headers["x-request-id"]
        assert forged != 'a"b'
        process.terminate()
        assert process.wait(20) == 0
    lines = log_lines(log)
    assert any(
        "127.0.0.1" in line["message"] and "REMIX_TOKEN" in line["message"] for line in lines
    )
    requests = [line for line in lines if line["logger"] == "remix.access"]
    mine = next(line for line in requests if line["request_id"] == "mine-1")
    assert (mine["method"], mine["path"], mine["route"], mine["status"]) == (
        "GET",
        "/v1/runs",
        "/v1/runs",
        200,
    )
    assert mine["bytes"] > 0
    assert mine["seconds"] > 0
    assert next(line for line in requests if line["request_id"] == forged)["status"] == 422


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--store", "/nowhere/at/all"], {}, "--store"),
        (["--store", "s4://x"], {}, "s4://x"),
        (["--port", "99999"], {}, "99999"),
        ([], {"REMIX_PORT": "x"}, "REMIX_PORT"),
        ([], {"REMIX_CACHE_SIZE": "much"}, "REMIX_CACHE_SIZE"),
        (["--store", ""], {}, "REMIX_STORE"),
        ([], {"REMIX_TOKEN": "   "}, "REMIX_TOKEN"),
        ([], {"REMIX_TOKEN": "s\N{LATIN SMALL LETTER E WITH ACUTE}cret"}, "REMIX_TOKEN"),
        ([], {"REMIX_TOKEN": "se cret"}, "REMIX_TOKEN"),
    ],
)
def test_wrong_settings_are_refused_before_it_listens(
    options: list[str], environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    import os

    command = [str(Path(sys.executable).parent / "remix"), "serve", *options]
    found = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert "cret" not in found.stderr


def test_a_port_that_is_taken_is_refused(trained_store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [
            str(Path(sys.executable).parent / "remix"),
            "serve",
            "--store",
            str(trained_store),
            "--port",
            str(port),
        ]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert f"127.0.0.1:{port}" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_service_is_light() -> None:
    code = "import sys, service.serve, service.report; print([m for m in ('torch', 'ray', 'torchaudio', 'torchvision', 'av', 'trainer') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
