"""docker-compose.yml on a Docker Engine, in use and under faults: `make compose-test`."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.http.formats import ARROW
from tests.support.compose import ROOT, WORKERS, Cluster, ended, no_engine
from trainer.config_values import merge
from trainer.sampler.plan_batch_sampler import PlanBatchSampler

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why := no_engine()), reason=f"no Docker Engine: {why}"),
]
REFERENCE = "reference"
CUT_SECONDS = 30


def job(name: str, **changes: Any) -> dict[str, Any]:
    """A one-minute run with its own features, slow enough to be interrupted."""
    source = {"generate": {"samples": 480, "classes": 6, "shards": 8}}
    train = {"epochs": 6, "warmup_epochs": 3, "batch_size": 12}
    base = {
        "name": name,
        "features": REFERENCE,
        "store": "/store",
        "source": source,
        "train": train,
        "resources": {"workers": WORKERS, "checkpoint_every": 4},
    }
    return merge(base, changes)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster("remix-test")
    cluster.down()  # what a run of these tests that was killed has left
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def reference(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run that nothing disturbs."""
    code, log = cluster.submit(job(REFERENCE), tmp_path_factory.mktemp(REFERENCE))
    assert code == 0, log
    return REFERENCE


def check_end(
    cluster: Cluster, following: "subprocess.Popen[str]", run: str, reference: str, **asked: bool
) -> None:
    """Asserts that a job that is followed ends well, and its run as the reference."""
    code, log = ended(following)
    assert code == 0, log
    cluster.check_same(run, reference, **asked)


def check_demo(cluster: Cluster, store: str, folder: Path) -> str:
    """Assert that the demo is trained, served and verified; returns its job's output."""
    name = "demo-s3" if "://" in store else "demo"
    config = yaml.safe_load((ROOT / "deploy" / "jobs" / f"{name}.yaml").read_text())
    code, log = cluster.submit(config, folder)
    assert code == 0, log
    statistics = httpx.get(f"{cluster.service}/v1/runs/demo/plans/12/stats").json()
    plan = f"{store}/runs/demo/plans/epoch-0012.arrow"
    assert statistics == cluster.json("remix", "stats", plan, "--json")
    sampler = PlanBatchSampler(f"{cluster.service}/v1/runs/demo/plans/12")
    assert statistics["num_steps"] == len(list(sampler))
    cluster.verify(f"{store}/runs/demo", "--parts")
    return log


def test_the_demo_is_trained_on_two_containers_and_told_over_http(
    cluster: Cluster, tmp_path: Path
) -> None:
    log = check_demo(cluster, "/store", tmp_path)
    assert json.loads(log.splitlines()[0])["run"] == "demo"
    facts = cluster.json("cat", "/store/runs/demo/run.json")
    assert len(set(facts["nodes"])) == WORKERS


def test_who_has_no_token_is_not_let_in(cluster: Cluster) -> None:
    # the dashboard's page and scripts are public and contain no data: they ask for the token
    def asked(path: str, token: str) -> int:
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"{cluster.dashboard}{path}", headers=bearer).status_code

    private = """/api/jobs/ /nodes?view=summary /api/v0/tasks /api/v0/logs /api/cluster_status
        /api/prometheus_health"""
    for path in private.split():
        assert asked(path, "") == 401, path
        assert asked(path, "wrong") in (401, 403), path
    sent = httpx.post(f"{cluster.dashboard}/api/jobs/", json={"entrypoint": "id"})
    assert sent.status_code == 401
    assert asked("/api/jobs/", cluster.run("head", "cat", "/auth/token")) == 200


def test_nothing_listens_beyond_loopback_and_nobody_is_root(cluster: Cluster) -> None:
    published = [
        publisher
        for container in cluster.containers()
        for publisher in container["Publishers"] or ()
        if publisher["PublishedPort"]
    ]
    assert {each["URL"] for each in published} == {"127.0.0.1"}
    for service in ("head", "worker", "service"):
        assert cluster.run(service, "id", "-u").strip() == "10001"
        touched = cluster.shell(service, "touch /opt/remix/x 2>&1 || true")
        assert "Read-only file system" in touched
        assert int(cluster.shell(service, "grep CapEff /proc/self/status | cut -f2"), 16) == 0
        assert "gcc" not in cluster.shell(service, "ls /usr/bin /usr/local/bin")
    for name in ("torch", "ray"):
        imported = cluster.shell("service", f"python3 -c 'import {name}' 2>&1 || true")
        assert "ModuleNotFoundError" in imported


def test_the_service_has_what_light_commands_need(cluster: Cluster, reference: str) -> None:
    path = f"/store/runs/{reference}/plans/epoch-0004.arrow"
    light, heavy = (
        cluster.run(service, "remix", "stats", path, "--json") for service in ("service", "head")
    )
    assert light == heavy
    assert "finished" in cluster.run("service", "remix", "inspect", f"/store/runs/{reference}")
    train = "printf 'name: a\\nfeatures: b\\n' | remix train - 2>&1 || true"
    assert "data-remixing[train]" in cluster.shell("service", train)


def test_a_worker_that_dies_while_it_decodes(
    cluster: Cluster, reference: str, tmp_path: Path
) -> None:
    config = job("decode", features="decode")
    following = cluster.start(config, tmp_path)
    cluster.kill("worker", when="ls /store/features/decode/.parts/*.arrow")
    assert not cluster.names("features/decode/manifest.json")
    check_end(cluster, following, "decode", reference, features=True)


def test_a_worker_that_dies_while_it_scores(
    cluster: Cluster, reference: str, tmp_path: Path
) -> None:
    following = cluster.start(job("score"), tmp_path)
    for epoch in (3, 4, 5):
        cluster.wait(lambda epoch=epoch: cluster.epochs("score") == epoch, 180)
        cluster.kill("worker", index=2)
        if f"epoch-{epoch:04d}.arrow" not in cluster.names("runs/score/scores"):
            break
    else:
        pytest.fail("no kill came before scores were written")
    check_end(cluster, following, "score", reference)


def test_a_worker_that_dies_in_the_middle_of_an_epoch(
    cluster: Cluster, reference: str, tmp_path: Path
) -> None:
    following = cluster.start(job("epoch"), tmp_path)
    cluster.kill("worker", when="ls /store/runs/epoch/steps/epoch-0001-step-0000000[1-9].arrow")
    assert cluster.epochs("epoch") < 2
    check_end(cluster, following, "epoch", reference)


def test_the_head_is_started_anew_and_the_job_submitted_again(
    cluster: Cluster, reference: str, tmp_path: Path
) -> None:
    following = cluster.start(job("head"), tmp_path)
    cluster.wait(lambda: cluster.epochs("head") >= 2, 180)
    cluster.kill("head")
    code, log = ended(following)
    assert code == 1
    assert "remix-head-" in log
    cluster.wait(lambda: nodes(cluster) == WORKERS + 1, 180)
    before = cluster.epochs("head")
    code, log = cluster.submit(job("head"), tmp_path)
    assert code == 0, log
    assert before >= 2
    cluster.check_same("head", reference)


def nodes(cluster: Cluster) -> int:
    """How many nodes the head counts as alive."""
    try:
        token = cluster.run("head", "cat", "/auth/token", check=False)
        answer = httpx.get(
            f"{cluster.dashboard}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"}
        )
    except httpx.HTTPError:
        return 0
    if not answer.is_success:
        return 0
    return sum(node["raylet"].get("state") == "ALIVE" for node in answer.json()["data"]["summary"])


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("nsenter", "iptables"))),
    reason="cutting a network needs root, nsenter and iptables",
)
def test_the_network_between_a_worker_and_the_head_is_cut(
    cluster: Cluster, reference: str, tmp_path: Path
) -> None:
    following = cluster.start(job("network"), tmp_path)
    cluster.wait(lambda: cluster.epochs("network") >= 1, 180)
    head, worker = (
        next(each["ID"] for each in cluster.containers() if each["Service"] == service)
        for service in ("head", "worker")
    )
    address = inspect(head, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    pid = inspect(worker, "{{.State.Pid}}")
    cut = ["nsenter", "-t", pid, "-n", "iptables", "-I", "INPUT", "-s", address, "-j", "DROP"]
    subprocess.run(cut, check=True)
    time.sleep(CUT_SECONDS)
    # the container may be gone
    subprocess.run(["-D" if word == "-I" else word for word in cut], check=False)
    check_end(cluster, following, "network", reference)


def inspect(container: str, template: str) -> str:
    return subprocess.run(
        ["docker", "inspect", "-f", template, container], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_service_dies_while_it_streams(cluster: Cluster, reference: str) -> None:
    url = f"{cluster.service}/v1/runs/{reference}/plans/4"
    whole = list(PlanBatchSampler(url))
    with socket.create_connection(("127.0.0.1", int(cluster.service.rpartition(":")[2]))) as client:
        asked = f"GET /v1/runs/{reference}/plans/4/steps HTTP/1.1\r\nHost: x\r\nAccept: {ARROW}"
        client.sendall(f"{asked}\r\n\r\n".encode())
        assert client.recv(100)
        cluster.kill("service")
    assert list(PlanBatchSampler(url)) == whole  # it asks again until the service is back


@pytest.mark.parametrize("moment", ["features", "checkpoint"])
def test_the_disk_fills(moment: str, tmp_path: Path) -> None:
    """A 96 MB store on its own file system, which a file can fill up at a given moment."""
    small = tmp_path / "small.yaml"
    options = "size=96m,uid=10001,gid=10001,mode=0750"
    driver = {"type": "tmpfs", "device": "tmpfs", "o": options}
    small.write_text(yaml.safe_dump({"volumes": {"store": {"driver_opts": driver}}}))
    cluster = Cluster(f"remix-small-{moment}", [small])
    try:
        cluster.up(1)
        config = job("full", features="full", resources={"workers": 1})
        fill = "dd if=/dev/zero of=/store/ballast"
        if moment == "features":
            cluster.shell("head", f"{fill} bs=1M count=90 2>/dev/null")
            code, log = cluster.submit(config, tmp_path)
        else:
            following = cluster.start(config, tmp_path)
            cluster.wait(lambda: cluster.epochs("full") >= 1, 180)
            cluster.shell("head", f"{fill} bs=64k 2>/dev/null || true")
            code, log = ended(following)
        assert code == 1, log
        assert "/store/" in log
        assert not cluster.names("features/full/manifest.json") or moment == "checkpoint"
        cluster.run("head", "rm", "/store/ballast")
        code, log = cluster.submit(config, tmp_path)
        assert code == 0, log
        cluster.verify("/store/runs/full", "--parts")
    finally:
        cluster.down()


def test_the_store_is_on_s3_and_nodes_keep_its_parts(tmp_path: Path) -> None:
    cluster = Cluster("remix-s3", [ROOT / "docker-compose.s3.yml"])
    try:
        cluster.up()
        check_demo(cluster, "s3://remix/store", tmp_path)
        copies = cluster.run("worker", "ls", "/cache/remix-cache").split()
        manifest = httpx.get(f"{cluster.service}/v1/features/demo").json()
        assert len(copies) == 8 * len(manifest["modalities"])
        script = "sha256sum * | while read sum name; do [ $sum = $name ] || echo $name; done"
        assert not cluster.shell("worker", f"cd /cache/remix-cache && {script}")
    finally:
        cluster.down()
