"""Original clips: members of shards over HTTP, whole and by ranges."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipeline.storage.store_path import StorePath
from service.settings import Settings
from tests.support.http_client import get
from tests.support.media_files import make_tar
from tests.support.object_store import S3Server, counted
from tests.support.serving import serving
from tests.support.stores import make_features
from tests.support.trained_run import edit_json

WAV = np.random.default_rng(0).bytes(600_000)  # more than two chunks
MEMBERS = [
    ("x/0.json", b"{}"),
    ("x/0.mp4", b"zero"),
    ("x/._1.mp4", b"left by a system"),
    ("x/1.json", b"{}"),
    ("x/1.Left.WAV", WAV),
    ("x/1.svg", b"<svg onload='alert(1)'/>"),
    ("x/1.png", b""),
    ("x/2.json", b"{}"),
]
LEFT = "1/media/left.wav"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a.tar").write_bytes(make_tar(MEMBERS))
    return folder


@pytest.fixture
def manifest(tmp_path: Path, shards: Path) -> Path:
    made = tmp_path / "store" / "features" / "made"
    make_features(made, num_rows=4, num_parts=1)
    path = made / "manifest.json"
    record(path, (shards / "a.tar").stat().st_size)
    return path


def record(manifest: Path, num_bytes: int, num_members: int = len(MEMBERS)) -> None:
    """Record a size of the shard, and its number of members."""
    part = json.loads(manifest.read_text())["parts"][0]
    source = {"bytes": num_bytes, "version": "1", "digest": "d"}
    edit_json(manifest, parts=[{**part, "source": source, "account": {"members": num_members}}])


@pytest.fixture
def rows(manifest: Path, shards: Path) -> Iterator[httpx.Client]:
    store = manifest.parents[2]
    with (
        serving(store, media=True, shards=str(shards)) as url,
        httpx.Client(base_url=f"{url}/v1/features/made/rows/") as client,
    ):
        yield client


def test_media_of_a_sample_are_listed_and_are_those_of_the_shard(rows: httpx.Client) -> None:
    page = get(rows, "1/media")
    base = "/v1/features/made/rows/1/media"
    assert page["items"] == [
        {
            "suffix": "left.wav",
            "content_type": "audio/wav",
            "bytes": len(WAV),
            "url": f"{base}/left.wav",
        },
        {"suffix": "png", "content_type": "image/png", "bytes": 0, "url": f"{base}/png"},
    ]
    assert get(rows, "2/media")["items"] == []
    whole = rows.get(LEFT)
    assert (whole.status_code, whole.content) == (200, WAV)
    assert whole.headers["content-type"] == "audio/wav"
    assert whole.headers["content-length"] == str(len(WAV))
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-disposition"] == "inline"
    assert rows.get("1/media/png").content == b""
    assert rows.get("0/media/mp4").content == b"zero"
    for suffix in ("svg", "json", "mp4"):
        assert "left.wav, png" in get(rows, f"1/media/{suffix}", 404)["detail"]
    assert "samples" in get(rows, "3/media", 404)["detail"]  # the shard has three
    assert "0 to 3" in get(rows, "4/media", 404)["detail"]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-262999", 5, 263_000),
        ("bytes=7-", 7, len(WAV)),
        (f"bytes=9-{10 * len(WAV)}", 9, len(WAV)),
        ("bytes=-3", len(WAV) - 3, len(WAV)),
        (f"bytes=-{10 * len(WAV)}", 0, len(WAV)),
    ],
)
def test_a_range_is_a_part_of_the_member(
    rows: httpx.Client, asked: str, start: int, end: int
) -> None:
    part = rows.get(LEFT, headers={"Range": asked})
    assert (part.status_code, part.content) == (206, WAV[start:end])
    assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(WAV)}"
    assert part.headers["content-length"] == str(end - start)


def test_conditions_and_ranges_that_do_not_apply(rows: httpx.Client) -> None:
    etag = rows.get(LEFT).headers["etag"]
    assert etag.startswith('"')
    assert etag != rows.get("1/media/png").headers["etag"]
    assert rows.get(LEFT, headers={"If-None-Match": etag}).status_code == 304
    for headers, status in (
        ({"Range": "bytes=1-2", "If-Range": etag}, 206),
        ({"Range": "bytes=1-2", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=1-2,4-5"}, 200),
        ({"Range": "lines=1-2"}, 200),
        ({"Range": "bytes=-"}, 200),
    ):
        assert rows.get(LEFT, headers=headers).status_code == status, headers
    assert rows.head(LEFT).headers["etag"] == etag
    for asked in (f"bytes={len(WAV)}-", "bytes=-0", "bytes=5-4"):
        refused = rows.get(LEFT, headers={"Range": asked})
        assert refused.status_code == 416, asked
        assert refused.headers["content-range"] == f"bytes */{len(WAV)}"
        assert refused.json()["status"] == 416


def test_without_the_setting_nothing_is_offered(manifest: Path, shards: Path) -> None:
    with serving(manifest.parents[2], shards=str(shards)) as url, httpx.Client() as client:
        for path in ("", "/left.wav"):
            body = get(client, f"{url}/v1/features/made/rows/1/media{path}", 404)
            assert "Set REMIX_MEDIA=1 and REMIX_SHARDS" in body["detail"]
        assert "data-media" not in client.get(url).text
    with pytest.raises(ValueError, match=r"REMIX_MEDIA=1 needs REMIX_SHARDS"):
        Settings(media=True)


def test_a_shard_that_cannot_be_used_is_named_with_the_reason(
    rows: httpx.Client, manifest: Path, shards: Path
) -> None:
    shard, tar = shards / "a.tar", make_tar(MEMBERS)
    twice = make_tar([*MEMBERS, ("x/0.wav", b"later")])
    for data, num_members, reason in (
        (gzip.compress(tar), len(MEMBERS), "compressed"),
        (b"\x28\xb5\x2f\xfd" + tar, len(MEMBERS), "compressed"),
        (b"\0" * 100 + b"x" + tar[101:], len(MEMBERS), "byte 0"),
        (tar[:-12_000], len(MEMBERS), "cut short"),
        (twice, len(MEMBERS) + 1, "not contiguous"),
        (tar, len(MEMBERS) + 1, "members"),
    ):
        shard.write_bytes(data)
        record(manifest, len(data), num_members)
        for path in ("1/media", LEFT):
            detail = get(rows, path, 404)["detail"]
            assert "'a.tar'" in detail and reason in detail
            assert str(shards) not in detail
    record(manifest, 3)
    assert "not 3" in get(rows, LEFT, 404)["detail"]
    shard.unlink()
    assert "REMIX_SHARDS" in get(rows, LEFT, 404)["detail"]
    shard.mkdir()
    assert "not found" in get(rows, LEFT, 404)["detail"]


def test_ranges_of_a_shard_on_s3_read_little_more_than_the_range(
    manifest: Path, shards: Path
) -> None:
    server = S3Server()
    with counted(server) as counter:
        uri = server.uri("bucket/shards", port=counter.port)
        (StorePath.at(uri) / "a.tar").write_bytes((shards / "a.tar").read_bytes())
        with (
            serving(manifest.parents[2], media=True, shards=uri) as url,
            httpx.Client(base_url=f"{url}/v1/features/made/rows/") as client,
        ):
            assert len(get(client, "1/media")["items"]) == 2
            etag = client.head(LEFT).headers["etag"]
            for headers, status, start, end in (
                ({"Range": "bytes=9-108"}, 206, 9, 109),
                ({"Range": "bytes=300000-", "If-Range": etag}, 206, 300_000, len(WAV)),
                ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200, 0, len(WAV)),
                ({"Range": f"bytes={len(WAV)}-"}, 416, 0, 0),
                ({"If-None-Match": etag}, 304, 0, 0),
            ):
                before = counter.num_bytes
                answer = client.get(LEFT, headers=headers)
                assert answer.status_code == status
                assert status == 416 or answer.content == WAV[start:end]
                assert end - start <= counter.num_bytes - before < end - start + 20_000, headers
    server.stop()
