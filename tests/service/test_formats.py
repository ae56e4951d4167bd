"""Tables of the API as JSON, Arrow, Parquet and CSV; and responses that a client cannot read."""

import io
import json

import httpx
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipeline.storage.arrow_files import read_table
from service.http.formats import MEDIA_TYPES
from tests.support.http_client import PLAN, RUN
from trainer.run_directory import Run

READERS = {
    "arrow": lambda data: pa.ipc.open_stream(data).read_all(),
    "parquet": lambda data: pq.read_table(io.BytesIO(data)),
    "csv": lambda data: pacsv.read_csv(io.BytesIO(data)),
}


@pytest.mark.parametrize(
    ("url", "file", "name"),
    [
        (f"{RUN}/epochs", "epochs.arrow", "arrow"),
        (f"{RUN}/epochs", "epochs.arrow", "parquet"),
        (f"{RUN}/epochs", "epochs.arrow", "csv"),
        (f"{RUN}/scores/3", "scores/epoch-0003.arrow", "arrow"),
        (f"{RUN}/scores/3", "scores/epoch-0003.arrow", "parquet"),
        (f"{PLAN}/steps", "plans/epoch-0002.arrow", "parquet"),
    ],
)
def test_a_table_is_that_of_the_file(
    client: httpx.Client, run: Run, url: str, file: str, name: str
) -> None:
    by_header = client.get(url, headers={"Accept": MEDIA_TYPES[name]})
    by_query = client.get(f"{url}?format={name}")
    assert by_header.status_code == by_query.status_code == 200, by_header.text
    assert by_header.content == by_query.content
    assert by_header.headers["content-type"].partition(";")[0] == MEDIA_TYPES[name]
    again = client.get(
        url, headers={"Accept": MEDIA_TYPES[name], "If-None-Match": by_header.headers["etag"]}
    )
    assert again.status_code == 304
    table, written = READERS[name](by_header.content), read_table(run.path / file)
    if name == "csv":
        assert table.column_names == written.column_names
        assert table["validation_accuracy"].to_pylist() == pytest.approx(
            written["validation_accuracy"].to_pylist()
        )
    else:
        assert table.schema.equals(written.schema)
        assert str(table.to_pylist()) == str(written.to_pylist())  # NaN differs from itself


def test_fields_choose_columns_in_every_format(client: httpx.Client, run: Run) -> None:
    url = f"{RUN}/scores/latest?fields=label,row&start=2&limit=3"
    items = client.get(url).json()["items"]
    last = read_table(
        run.path / "scores" / f"epoch-{client.get(RUN).json()['scores'][-1]:04d}.arrow"
    )
    assert items == last.select(["label", "row"]).slice(2, 3).to_pylist()
    lines = client.get(f"{url}&format=csv").text.splitlines()
    assert lines == ['"label","row"', *(f"{item['label']},{item['row']}" for item in items)]
    epochs = client.get(f"{RUN}/epochs?fields=epoch&limit=1").json()
    assert (epochs["items"], "start=1" in epochs["next"]) == ([{"epoch": 0}], True)
    missing = client.get(f"{RUN}/epochs?fields=epoch,nothing")
    assert (missing.status_code, "'nothing'" in missing.json()["detail"]) == (404, True)


def test_a_missing_modality_is_null(client: httpx.Client) -> None:
    page = client.get(f"{RUN}/scores/3")
    assert page.status_code == 200
    rows = json.loads(page.text, parse_constant=lambda text: pytest.fail(text))["items"]
    assert any(value is None for row in rows for value in row.values())


@pytest.mark.parametrize(
    ("accept", "url", "status"),
    [
        ("text/html", "/v1/runs", 406),
        ("text/csv", f"{PLAN}/steps", 406),
        ("application/json;q=0, */*", "/v1/runs", 406),
        ("text/html, */*;q=0.1", "/v1/runs", 200),
        ("application/*", f"{RUN}/epochs", 200),
        ("text/csv;q=0.5, application/json;q=0.4", f"{RUN}/epochs", 200),
    ],
)
def test_what_a_client_does_not_accept_is_not_sent(
    client: httpx.Client, accept: str, url: str, status: int
) -> None:
    response = client.get(url, headers={"Accept": accept})
    assert response.status_code == status
    if status == 406:
        assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["content-type"].startswith("text/csv") == accept.startswith("text/csv;")


def test_latest_is_the_last_epoch(client: httpx.Client) -> None:
    last = client.get(RUN).json()["plans"][-1]
    for path in ("", "/stats", "/steps"):
        latest = client.get(f"{RUN}/plans/latest{path}").json()
        assert {**latest, "next": ""} == {
            **client.get(f"{RUN}/plans/{last}{path}").json(),
            "next": "",
        }
