"""deploy/ and the compose files agree with the code, with each other and with the runbook."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import typer.main
import yaml

from remix.cli import app as command_line
from tests.support.serving import serving
from trainer.cluster.jobs import ENTRYPOINT, request_of
from trainer.config import load_run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
JOBS = sorted((DEPLOY / "jobs").glob("*.yaml"))


def documents(folder: Path, pattern: str) -> dict[str, list[Any]]:
    """What YAML and JSON files hold, by file name."""
    return {
        path.name: list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob(pattern))
    }


DASHBOARDS = [board for (board,) in documents(DEPLOY / "grafana", "*.json").values()]
COMPOSE = {name: file[0] for name, file in documents(ROOT, "docker-compose*.yml").items()}
MONITORED = documents(DEPLOY / "prometheus", "*.yml")
PROMETHEUS = MONITORED["prometheus.yml"][0]
RULES = [rule for group in MONITORED["alerts.yml"][0]["groups"] for rule in group["rules"]]
MANIFESTS = {
    (each["kind"], each["metadata"].get("name")): each
    for file in documents(DEPLOY / "kubernetes", "*.yaml").values()
    for each in file
    if "metadata" in each
}
RAY_CLUSTER = MANIFESTS["RayCluster", "remix"]["spec"]
RAY_GROUPS = [RAY_CLUSTER["headGroupSpec"], *RAY_CLUSTER["workerGroupSpecs"]]
PODS = [
    *(group["template"]["spec"] for group in RAY_GROUPS),
    MANIFESTS["Deployment", "remix-service"]["spec"]["template"]["spec"],
]


EXPRESSIONS = [
    *(
        target["expr"]
        for board in DASHBOARDS
        for panel in board["panels"]
        for target in panel["targets"]
    ),
    *(rule["expr"] for rule in RULES),
]
"""Every question that a dashboard or an alert asks Prometheus."""


def metrics(prefix: str) -> set[str]:
    return set(re.findall(rf"\b{prefix}_[a-z0-9_]+", " ".join(EXPRESSIONS)))


def pieces(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a nested document, with its value."""
    items = value.items() if isinstance(value, dict) else ()
    for key, each in enumerate(value) if isinstance(value, list) else items:
        yield from [(str(key), each), *pieces(each)]


def test_the_service_has_every_metric_that_is_asked_for(trained_store: Path) -> None:
    with serving(trained_store) as url:
        httpx.get(f"{url}/v1/runs")
        exported = set(re.findall(r"^(remix_\w+)", httpx.get(f"{url}/metrics").text, re.MULTILINE))
    assert len(metrics("remix")) > 8
    assert metrics("remix") - exported == set()


def test_ray_has_every_metric_that_is_asked_for() -> None:
    package = Path(ray.__file__).parent
    name = rb"(?<![a-z0-9_])[a-z0-9]+(?:_[a-z0-9]+)*(?![a-z0-9_])"
    sources = [
        *package.glob("dashboard/modules/metrics/dashboards/*_panels.py"),
        package / "dashboard/modules/reporter/reporter_agent.py",
        package / "core/src/ray/raylet/raylet",
        package / "core/src/ray/gcs/gcs_server",
    ]
    words = {word.decode() for path in sources for word in re.findall(name, path.read_bytes())}
    known = {word.removeprefix("ray_") for word in words}
    asked = {each.removeprefix("ray_") for each in metrics("ray")}
    assert len(asked) > 15
    assert {each for each in asked if not {each, each.removesuffix("_total")} & known} == set()


def test_dashboards_are_whole() -> None:
    [source] = documents(DEPLOY / "grafana", "*.yaml")["datasources.yaml"][0]["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert len({board["uid"] for board in DASHBOARDS}) == len(DASHBOARDS) == 3
    for board in DASHBOARDS:
        assert all(
            panel["title"] and panel["targets"] and panel["datasource"]["uid"] == source["uid"]
            for panel in board["panels"]
        )
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_prometheus_takes_its_rules() -> None:
    if not shutil.which("promtool"):
        pytest.skip("no promtool (apt-get install prometheus)")
    command = ["promtool", "check", "rules", str(DEPLOY / "prometheus" / "alerts.yml")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_prometheus_asks_containers_that_there_are() -> None:
    metrics_port = re.search(r"--metrics-export-port=(\d+)", (DEPLOY / "start.sh").read_text())
    assert metrics_port
    assert re.search(r"^EXPOSE 8000$", DOCKERFILE, re.MULTILINE)
    asked = {}
    for job in PROMETHEUS["scrape_configs"]:
        for each in job.get("dns_sd_configs", []):
            asked |= dict.fromkeys(each["names"], each["port"])
        for each in job.get("static_configs", []):
            asked |= {target.split(":")[0]: int(target.split(":")[1]) for target in each["targets"]}
    assert asked == {"service": 8000, "head": int(metrics_port[1]), "worker": int(metrics_port[1])}
    assert asked.keys() <= COMPOSE["docker-compose.yml"]["services"].keys()
    jobs = {job["job_name"] for job in PROMETHEUS["scrape_configs"]}
    assert set(re.findall(r'job="(\w+)"', " ".join(EXPRESSIONS))) <= jobs


def test_the_runbook_has_every_alert_and_no_other() -> None:
    section = RUNBOOK.split("\n## Alerts\n")[1].split("\n## ")[0]
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == [rule["alert"] for rule in RULES]
    assert all(
        rule["annotations"]["summary"] and rule["labels"]["severity"] in ("warning", "critical")
        for rule in RULES
    )


def test_the_commands_of_the_runbook_can_be_typed() -> None:
    group: Any = typer.main.get_command(command_line.app)
    typed = re.findall(r"^```console\n(.*?)^```$", RUNBOOK, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^remix (\w+)(.*)$", "".join(typed), re.MULTILINE)
    assert {name for name, _ in lines} >= {"submit", "verify"}
    for name, rest in lines:
        group.commands[name].make_context(name, shlex.split(rest))  # raises UsageError


def test_the_links_and_files_of_the_runbook_exist() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", RUNBOOK):
        path, _, anchor = link.partition("#")
        assert (DEPLOY / path).exists() if path else anchor in anchors, link
    named = re.findall(r"`((?:deploy|benchmarks)/[\w./-]+)`", RUNBOOK)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_can_be_submitted(path: Path) -> None:
    config = load_run(path)
    assert config.store == "/store" or "://" in config.store
    assert config.source
    assert request_of(config)["metadata"]["remix.run"] == config.name


def test_ports_are_published_on_loopback_alone() -> None:
    services = [each for file in COMPOSE.values() for each in file.get("services", {}).values()]
    ports = [str(port) for service in services for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert "host" not in [service.get("network_mode") for service in services]


def test_containers_are_confined() -> None:
    services = {
        name: service
        for file in ("docker-compose.yml", "docker-compose.metrics.yml")
        for name, service in COMPOSE[file]["services"].items()
    }
    assert services.keys() == {"head", "worker", "service", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert not service.get("privileged"), name
        assert re.match(r"remix-|[\w/]+:v?\d+\.\d+\.\d+$", service["image"]), name


def test_kubernetes_runs_the_same_images_as_the_same_user() -> None:
    uid = re.search(r"useradd --uid (\d+)", DOCKERFILE)
    assert uid
    targets = re.findall(r"^FROM .* AS (cluster|service)$", DOCKERFILE, re.MULTILINE)
    images = {container["image"] for pod in PODS for container in pod["containers"]}
    composed = {service["image"] for service in COMPOSE["docker-compose.yml"]["services"].values()}
    assert images == {f"remix-{target}" for target in targets} == composed
    kustomized = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert {each["name"] for each in kustomized["images"]} == images
    assert {each["newTag"] for each in kustomized["images"]} == {version("data-remixing")}
    for pod in PODS:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == int(uid[1])
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/store", "/tmp"}
    mounts = {mount["mountPath"]: mount for mount in PODS[-1]["containers"][0]["volumeMounts"]}
    assert mounts["/store"]["readOnly"]


def test_kubernetes_has_the_ports_and_names_of_compose() -> None:
    head = PODS[0]["containers"][0]
    assert {port["name"]: port["containerPort"] for port in head["ports"]} == {
        "gcs-server": 6379,
        "dashboard": 8265,
        "metrics": 8080,
    }
    assert RAY_CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert f"\nray=={RAY_CLUSTER['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert RAY_CLUSTER["authOptions"] == {"mode": "token"}
    service = PODS[-1]["containers"][0]
    assert [port["containerPort"] for port in service["ports"]] == [8000]
    assert service["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert service["readinessProbe"]["httpGet"]["path"] == "/readyz"
    composed = COMPOSE["docker-compose.yml"]["services"]["service"]["environment"]
    assert {each["name"] for each in service["env"]} <= composed.keys()
    policies = {
        name: each["spec"] for (kind, name), each in MANIFESTS.items() if kind == "NetworkPolicy"
    }
    assert policies["deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ports = {value for key, value in pieces(list(policies.values())) if key == "port"}
    assert ports == {53, 443, 6443, 8000, 8080, 8265}
    assert {value for key, value in pieces(PODS) if key == "claimName"} == {"store"}
    assert MANIFESTS["PersistentVolumeClaim", "store"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_job_of_kubernetes_is_what_submit_sends() -> None:
    job = MANIFESTS["RayJob", None]["spec"]
    sent = request_of(load_run(DEPLOY / "jobs" / "demo.yaml"))
    assert job["entrypoint"] == sent["entrypoint"] == ENTRYPOINT
    del sent["metadata"]["remix.version"]
    assert job["metadata"] == sent["metadata"]
    given, expected = (
        yaml.safe_load(job["runtimeEnvYAML"])["env_vars"],
        sent["runtime_env"]["env_vars"],
    )
    [demo] = documents(DEPLOY / "jobs", "demo.yaml").values()
    assert [json.loads(given.pop("REMIX_JOB"))] == demo
    del expected["REMIX_JOB"]
    assert given == expected
    assert job["clusterSelector"] == {"ray.io/cluster": "remix"}


def test_manifests_can_be_put_together() -> None:
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl")
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    made = list(yaml.safe_load_all(found.stdout))
    assert {each["kind"] for each in made} == {kind for kind, _ in MANIFESTS} - {"RayJob"}
    tags = {value for key, value in pieces(made) if key == "image"}
    assert tags == {
        f"remix-cluster:{version('data-remixing')}",
        f"remix-service:{version('data-remixing')}",
    }
