"""Tokenizers of transformers that text modalities name, resolved to their content."""

from dataclasses import dataclass

from pipeline.decode.config import DecodeConfig, TextSpec
from pipeline.decode.media.text import tokenizer_key
from pipeline.errors import ConfigError
from pipeline.extensions import load_extension
from pipeline.storage.store_path import StorePath


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTokenizer:
    """A tokenizer that truncates and pads to a length, as JSON of package tokenizers."""

    text: str
    size: int
    pad: int

    @property
    def entry(self) -> dict[str, str | int]:
        """Its entry in a manifest."""
        sha256 = tokenizer_key(self.text).removeprefix("sha256:")
        return {"sha256": sha256, "size": self.size, "pad": self.pad}


def resolve_tokenizers(config: DecodeConfig) -> tuple[DecodeConfig, dict[str, TextTokenizer]]:
    """Replace the tokenizers that a configuration names by the hashes of their content.

    Returns the configuration, and the tokenizers by modality. Raises ConfigError.
    """
    tokenizers = {
        name: _tokenizer(name, spec.tokenizer, spec.length)
        for name, spec in config.modalities.items()
        if isinstance(spec, TextSpec) and spec.tokenizer
    }
    modalities = {
        name: spec.model_copy(update={"tokenizer": tokenizer_key(tokenizers[name].text)})
        if name in tokenizers
        else spec
        for name, spec in config.modalities.items()
    }
    return config.model_copy(update={"modalities": modalities}), tokenizers


def tokenizer_paths(out: StorePath, config: DecodeConfig) -> list[StorePath]:
    """Paths of the tokenizers in a feature set, in the order of the modalities."""
    return [
        out / name / "tokenizer.json"
        for name, spec in config.modalities.items()
        if isinstance(spec, TextSpec) and spec.tokenizer
    ]


def _tokenizer(name: str, source: str, length: int) -> TextTokenizer:
    field = f"modalities.{name}.tokenizer"
    factory = load_extension("transformers:AutoTokenizer")
    try:
        tokenizer = factory.from_pretrained(source)
    except Exception as error:  # whatever the library and the network raise
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"{field}: no tokenizer {source!r} ({type(error).__name__}: {reason})",
            "name a folder of save_pretrained, or an id of the Hugging Face hub",
        ) from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        lacks = "padding token" if tokenizer.is_fast else "tokenizer.json"
        raise ConfigError(f"{field}: {source!r} has no {lacks}", "add one, and save it again")
    backend, pad = tokenizer.backend_tokenizer, tokenizer.pad_token_id
    backend.enable_truncation(length)
    backend.enable_padding(length=length, pad_id=pad, pad_token=tokenizer.pad_token)
    return TextTokenizer(text=backend.to_str(), size=len(tokenizer), pad=pad)
