"""HTTP behaviour: ETags, compression, caching, errors, the token, metrics and OpenAPI."""

import gzip
import http.client
import json
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.http.formats import ARROW
from tests.support.http_client import PLAN, RUN
from tests.support.serving import serving
from tests.support.stores import make_features
from trainer.run_directory import Run


@pytest.mark.parametrize(
    "url",
    f"""{PLAN}/steps {PLAN}/stats {PLAN} {RUN} {RUN}/epochs {RUN}/plans {RUN}/samples/s0001
    {RUN}/scores/3/histogram /v1/runs /v1/features /v1/features/made /v1/features/made/samples
    / /assets/plotly.min.js""".split(),
)
def test_a_current_etag_gets_304(client: httpx.Client, url: str) -> None:
    for encoding in ("identity", "gzip"):
        first = client.get(url, headers={"Accept-Encoding": encoding})
        etag = first.headers["etag"]
        assert re.fullmatch(r'"[^"]+"', etag)
        for header in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = client.get(url, headers={"If-None-Match": header, "Accept-Encoding": encoding})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        headers = {"If-None-Match": '"other"', "Accept-Encoding": encoding}
        assert client.get(url, headers=headers).content == first.content
        head = client.head(url, headers={"Accept-Encoding": encoding})
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", etag)
        assert head.headers["content-length"] == first.headers["content-length"]
        assert "no-cache" in first.headers["cache-control"]


def test_json_is_compressed_if_the_client_accepts_gzip(client: httpx.Client) -> None:
    url = f"{PLAN}/stats"
    raw = {}
    for encoding in ("gzip", "identity", "gzip;q=0"):
        with client.stream("GET", url, headers={"Accept-Encoding": encoding}) as response:
            encoded, etag = (response.headers.get(name) for name in ("content-encoding", "etag"))
            raw[encoding] = b"".join(response.iter_raw()), encoded, etag
    data, encoded, etag = raw["gzip"]
    plain = gzip.decompress(data), None, raw["identity"][2]
    assert raw["identity"] == raw["gzip;q=0"] == plain
    assert encoded == "gzip" and etag != plain[2]


def test_list_headers_may_be_sent_as_several_lines(client: httpx.Client) -> None:
    def get(url: str, name: str, *values: str) -> httpx.Response:
        return client.get(url, headers=[(name, value) for value in values])

    etag = client.get("/v1/runs").headers["etag"]
    assert get("/v1/runs", "If-None-Match", '"other"', etag).status_code == 304
    arrow = get(f"{PLAN}/steps", "Accept", "text/html", ARROW)
    assert arrow.headers["content-type"] == ARROW
    packed = get(f"{PLAN}/stats", "Accept-Encoding", "br", "gzip")
    assert packed.headers["content-encoding"] == "gzip"


def test_next_includes_the_root_path_of_a_proxy(trained_store: Path) -> None:
    with serving(trained_store, root_path="/remix") as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/runs?limit=1").json()["next"] == "/remix/v1/runs?limit=1&start=1"
        response = client.get(f"{RUN}/plans/%202/steps?limit=1")
        assert response.json()["next"] == f"/remix{RUN}/plans/%202/steps?limit=1&start=1"
        assert response.links["next"]["url"] == response.json()["next"]


def test_only_urls_with_a_fingerprint_are_immutable(client: httpx.Client) -> None:
    fingerprint = client.get(PLAN).json()["fingerprint"]
    plan = f"/v1/plans/{fingerprint}"
    for accept in ("application/json", ARROW):
        steps = client.get(f"{plan}/steps", headers={"Accept": accept})
        assert steps.status_code == 200
        assert "immutable" in steps.headers["cache-control"]
    assert (
        client.get(f"{plan}/steps").json()["items"] == client.get(f"{PLAN}/steps").json()["items"]
    )
    stats = client.get(f"{plan}/stats")
    assert stats.json() == client.get(f"{PLAN}/stats").json()
    assert "immutable" in stats.headers["cache-control"]
    assert "accept" in stats.headers["vary"].lower()
    assert client.get(f"/v1/plans/{'0' * 64}/stats").status_code == 404
    arrow = client.get(f"{PLAN}/steps", headers={"Accept": ARROW})
    assert "no-cache" in arrow.headers["cache-control"]
    assert client.get("/v1/runs/nobody").headers["cache-control"] == "no-store"


def test_a_replaced_feature_set_gets_a_new_etag(tmp_path: Path) -> None:
    folder = tmp_path / "features" / "made"
    make_features(folder)
    with serving(tmp_path) as url, httpx.Client(base_url=url) as client:
        before = client.get("/v1/features/made")
        shutil.rmtree(folder)
        make_features(folder, seed=1)
        etag = {"If-None-Match": before.headers["etag"]}
        after = client.get("/v1/features/made", headers=etag)
        assert after.status_code == 200
        assert after.json()["fingerprint"] != before.json()["fingerprint"]


def test_every_error_is_a_problem(client: httpx.Client, trained_store: Path) -> None:
    missing = f"/nowhere /v1/runs/nobody {RUN}/plans/99 /assets/app.py"
    wrong = f"""{RUN}/plans/x {RUN}/plans/-1 {PLAN}/steps?limit=0 {PLAN}/steps?limit=1001
        {PLAN}/steps?modalty=touch /v1/runs?start=x&start=0 /v1/runs?x=1
        {RUN}/scores/3/histogram?bins=0"""
    cases = [("GET", url, 404) for url in missing.split()]
    cases += [("GET", url, 422) for url in wrong.split()]
    cases += [("POST", "/v1/runs", 405), ("DELETE", RUN, 405), ("PUT", "/", 405)]
    for method, url, status in cases:
        response = client.request(method, url)
        assert response.status_code == status, url
        assert response.headers["content-type"] == "application/problem+json"
        body = response.json()
        assert (body["status"], body["instance"]) == (status, url.split("?")[0])
        assert body["request_id"] == response.headers["x-request-id"]
        assert {"type", "title", "detail"} <= body.keys()
        assert str(trained_store) not in response.text
        assert "Traceback" not in response.text
        if status == 405:
            assert response.headers["allow"] == "GET, HEAD"


HOSTILE = """
    .. %2e%2e %2e%2e%2f%2e%2e%2fetc ..%2f..%2fetc%2fpasswd %00 demo%00 demo-remix-seed0%0a
    .hidden -x demo/../.. %5c..%5c ~root d%D0%B5mo %EF%BC%8E%EF%BC%8E %ff%fe %ed%a0%80
    demo-remix-seed0%20 * %25%32%65 con demo%2Dremix%2Dseed0%2f.. %c0%ae%c0%ae
"""


@pytest.mark.parametrize("name", [*HOSTILE.split(), "a" * 65, "a" * 8000])
def test_names_never_reach_the_file_system_unchecked(client: httpx.Client, name: str) -> None:
    parts = urlsplit(str(client.base_url))
    templates = """/v1/runs/{} /v1/features/{} /v1/runs/{}/plans/0/steps /v1/comparisons/{}
        /assets/{} /v1/runs/demo-remix-seed0/samples/{} /v1/runs/demo-remix-seed0/plans/{}"""
    for template in templates.split():
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        connection.putrequest(
            "GET", template.format(name), skip_accept_encoding=True
        )  # sent unchanged: http clients would normalise the path
        connection.endheaders()
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        assert response.status in (404, 422), (template, name, body)
        assert response.headers["content-type"] == "application/problem+json"
        assert "root:" not in json.dumps(body)


def test_routes_of_the_store_require_the_token(trained_store: Path) -> None:
    with serving(trained_store, token="se-cret\n") as url, httpx.Client(base_url=url) as client:
        for path in ["/healthz", "/readyz", "/", "/assets/plotly.min.js", "/docs", "/openapi.json"]:
            assert client.get(path).status_code == 200, path
        known = {"run": "demo-remix-seed0", "epoch": 2, "name": "made", "sample_id": "s0001"}
        known |= {"fingerprint": "0" * 64, "row": 0, "modality": "sound", "suffix": "mp4"}
        guarded = [
            path.format(**known)
            for path in client.get("/openapi.json").json()["paths"]
            if path.startswith("/v1")
        ]
        for path in [*guarded, "/metrics"]:
            for header in (None, "Bearer wrong", "Bearer", "Basic se-cret", "se-cret"):
                response = client.get(path, headers={"Authorization": header} if header else {})
                assert response.status_code == 401, (path, header)
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.headers["content-type"] == "application/problem+json"
            response = client.get(path, headers={"Authorization": "Bearer se-cret"})
            assert response.status_code in (200, 404), path  # /v1/comparisons/made does not exist
            assert "public" not in response.headers["cache-control"]
        assert (
            client.get("/v1/runs/nobody/plans/x").status_code == 401
        )  # unauthorised clients learn nothing about parameters


def test_metrics_count_requests_and_describe_the_newest_plan(trained_store: Path, run: Run) -> None:
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
    gauges = [families[f"remix_{name}"][0].value for name in ("runs", "plans", "store_up")]
    assert gauges == [3, 12, 1]
    assert families["remix_newest_plan_age_seconds"][0].value >= 0
    stats = run.plan_stats(3).read_json()
    assert {
        sample.labels["modality"]: sample.value for sample in families["remix_newest_plan_steps"]
    } == {name: own["num_steps"] for name, own in stats["modalities"].items()}
    assert families["remix_newest_plan_churn"][0].value == stats["churn"]


def test_openapi_describes_every_route_and_property(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["tags"] and operation["summary"] for operation in operations)
    assert all(operation["description"] for operation in operations)
    undescribed = [
        (operation["operationId"], parameter["name"])
        for operation in operations
        for parameter in operation.get("parameters", [])
        if not parameter.get("description")
    ]
    assert undescribed == []
    assert all(set(path) == {"get"} for path in document["paths"].values())
    expected = """/healthz /readyz /metrics /v1/features /v1/features/{name} /v1/runs /v1/runs/{run}
        /v1/runs/{run}/plans /v1/runs/{run}/plans/{epoch} /v1/runs/{run}/plans/{epoch}/stats
        /v1/runs/{run}/plans/{epoch}/steps /v1/runs/{run}/scores/{epoch}/histogram
        /v1/runs/{run}/samples/{sample_id} /v1/runs/{run}/epochs"""
    assert set(expected.split()) <= set(document["paths"])
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        if name.startswith("Page_"):
            assert {"items", "next"} == schema["properties"].keys()
    undescribed = [
        (name, key)
        for name, schema in schemas.items()
        for key, value in schema.get("properties", {}).items()
        if not value.get("description")
    ]
    assert undescribed == []
    page = client.get("/docs").text
    assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", page)
    for asset in re.findall(r"(?:src|href)=[\"'](/[^\"']+)", page):
        assert client.get(asset).status_code == 200
