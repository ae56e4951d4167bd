"""Pretrained weights of libraries of models: local files, and their hashes."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.extensions import load_extension
from trainer.models.encoder_config import SOURCES, EncoderConfig

MODEL_FILES = ("config.json", "*.safetensors", "*.bin")
"""Files of a folder of transformers that decide what it computes."""


def weights_path(config: EncoderConfig) -> Path | None:
    """The local file or folder of an encoder's pretrained weights, downloaded if it names a hub.

    Raises ConfigError if they do not exist.
    """
    if not config.pretrained:
        return None
    kind, source = str(config.kind), str(config.pretrained)
    load_extension(SOURCES[kind])  # reports a missing package
    if isinstance(config.pretrained, str):
        path = Path(source).expanduser()
        if path.exists():
            if kind != "transformers" and not path.is_file():
                raise ConfigError(f"pretrained is a folder: {path}", "name a file of weights")
            return path.absolute()
        if path.suffix in (".pt", ".pth", ".safetensors") or path.is_absolute():
            raise ConfigError(f"weights not found: {path}", "correct pretrained")
    try:
        return _FETCH[kind](config)
    except Exception as error:  # whatever the libraries and the network raise
        raise ConfigError(
            f"no pretrained weights {source!r} of kind {kind}, {config.name or 'no name'}, on this "
            f"machine, and none can be downloaded ({type(error).__name__}: {_first_line(error)})",
            "correct name and pretrained, download them on a machine with network, or name a file",
        ) from error


def _torchvision(config: EncoderConfig) -> Path:
    from torchvision.models import get_model_weights

    if config.pretrained is not True:
        raise ValueError("torchvision takes a file or true")
    url: str = get_model_weights(config.name).DEFAULT.url
    torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _timm(config: EncoderConfig) -> Path:
    import timm

    hub_id: Any = config.pretrained
    if hub_id is True:
        default = timm.get_pretrained_cfg(config.name)
        hub_id = default and default.hf_hub_id
    if not isinstance(hub_id, str):
        raise ValueError("timm has no weights of this model on the hub")
    return _hub(hub_id, "model.safetensors") / "model.safetensors"


def _hub(hub_id: str, *patterns: str) -> Path:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(hub_id, allow_patterns=[*patterns]))
    if not any(folder.glob("*.safetensors")):
        raise ValueError("it has no .safetensors")
    return folder


_FETCH: dict[str, Callable[[EncoderConfig], Path]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": lambda config: _hub(
        str(config.pretrained), "config.json", "model*.safetensors", "*.index.json"
    ),
}


def without_weights(config: EncoderConfig) -> EncoderConfig:
    """A configuration that builds the same encoder without its weights, given others.

    `pretrained` is the hash of the weights, so that it names the same ones at any path.
    Raises ConfigError.
    """
    if str(config.pretrained).startswith("sha256:") or not (path := weights_path(config)):
        return config
    changes: dict[str, Any] = {"pretrained": f"sha256:{weights_hash(path)}"}
    if config.kind == "transformers":
        from trainer.models.transformers_models import description

        changes["name"], changes["args"] = description(path, config.args)
    return config.model_copy(update=changes)


def weights_hash(path: Path) -> str:
    """SHA-256 of a file of weights or, for a folder of transformers, of its files."""
    files = (
        sorted({file for pattern in MODEL_FILES for file in path.glob(pattern)})
        if path.is_dir()
        else [path]
    )
    hashes = []
    for file in files:
        info = file.stat()
        hashes.append((file.name, _file_hash(file, info.st_size, info.st_mtime_ns)))
    if not path.is_dir():
        return hashes[0][1]
    return hashlib.sha256(repr(hashes).encode()).hexdigest()


@cache
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights onto the CPU; only plain data is unpickled."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):  # as training scripts of torchvision and timm write them
        if isinstance(state.get(key), dict):
            state = state[key]
    return dict(state)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
