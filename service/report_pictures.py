"""Pictures of the samples that a report names, as the service makes them, in data: URLs."""

import base64
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain, islice, zip_longest
from urllib.parse import quote

import httpx
from pydantic import JsonValue

MAX_PICTURED = 100
"""Samples with pictures: the 25 of each of the three ranked lists, and 25 of the scatter."""
MAX_PICTURE_BYTES = 20_000_000
"""Maximum size of all pictures in the file, which is opened as a whole and sent by mail."""
UNQUOTED = "!'()*~"
"""Characters that encodeURIComponent leaves unquoted, in addition to those of quote()."""
Responses = dict[str, JsonValue]
"""Response bodies by path and query."""
Get = Callable[[str, Responses], Awaitable[JsonValue]]
"""Fetches the JSON of a path, an error included, and adds it to the responses."""


def named_samples(lists: Iterable[JsonValue], points: JsonValue) -> list[str]:
    """Ids of at most MAX_PICTURED samples: of the ranked lists in turn, then of the scatter."""
    ranked = [
        [str(item["sample_id"]) for item in items if isinstance(item, dict)]
        for items in (_field(page, "items") for page in lists)
    ]
    in_turn = (name for names in zip_longest(*ranked) for name in names if name is not None)
    ids = dict.fromkeys(chain(in_turn, map(str, _field(points, "sample_id"))))
    return list(islice(ids, MAX_PICTURED))


async def fetch_pictures(
    client: httpx.AsyncClient, get: Get, features: str, histories: Iterable[JsonValue]
) -> Responses:
    """Fetch what samples have in each modality: its description, and its picture if it has one.

    Ends before the sample with which the responses exceed MAX_PICTURE_BYTES.

    Args:
        client: the service.
        get: fetches a description.
        features: the path of the feature set.
        histories: the samples, as the service describes them; errors are left out.
    """
    responses: Responses = {}
    num_bytes = 0
    for row, modalities in _present(histories):
        own: Responses = {}
        for name in modalities:
            path = f"{features}/rows/{row}/modalities/{quote(name, safe=UNQUOTED)}"
            await get(path, own)
            picture = await client.get(f"/{path}/image", headers={"Accept": "image/png"})
            if picture.status_code == 200:
                data = base64.b64encode(picture.content).decode()
                own[f"{path}/image"] = f"data:image/png;base64,{data}"
        num_bytes += sum(len(str(body)) for body in own.values())
        if num_bytes > MAX_PICTURE_BYTES:
            break
        responses |= own
    return responses


def _present(histories: Iterable[JsonValue]) -> Iterator[tuple[JsonValue, list[str]]]:
    """The row of each sample, and the modalities that it has."""
    for history in histories:
        if isinstance(history, dict) and isinstance(has := history.get("has"), dict):
            yield history["row"], [name for name, present in has.items() if present]


def _field(response: JsonValue, name: str) -> list[JsonValue]:
    """A list in a response; empty in an error."""
    value = response.get(name) if isinstance(response, dict) else None
    return value if isinstance(value, list) else []
