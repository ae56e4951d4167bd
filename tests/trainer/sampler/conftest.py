"""A plan in a file and at a URL."""

import threading
from collections.abc import Iterator

import pytest

from tests.support.plan_server import PlanServer
from tests.support.sampler_plans import PLAN, write


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("plan") / "plan.arrow", PLAN.table)


@pytest.fixture
def server() -> Iterator[PlanServer]:
    with PlanServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
