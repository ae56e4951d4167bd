"""Models of transformers as encoders of images, spectrograms, waveforms and text."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from pipeline.decode.media.shapes import Vocabulary

logging.disable_progress_bar()  # loading weights would write one


def configuration(name: str | None, folder: Path | None, args: dict[str, Any]) -> Any:
    """The configuration of a model: that of a folder or a model type's default, with `args`."""
    if folder:
        return AutoConfig.from_pretrained(folder, local_files_only=True, **args)
    return AutoConfig.for_model(name, **args)


def description(folder: Path, args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model type of a folder, and the arguments that build its configuration without it."""
    fields = configuration(None, folder, args).to_diff_dict()
    for key in ("transformers_version", "architectures", "dtype", "_name_or_path"):
        fields.pop(key, None)
    return fields.pop("model_type"), fields


class TransformersEncoder(nn.Module):
    """A model of transformers: its pooled output, or the mean of its last hidden state.

    Rows are images (C, H, W), token ids (L,), spectrograms (1, F, T) for models of spectrograms, or
    waveforms (N,). A single channel is repeated for a model of three.

    Args:
        shape: of a row.
        vocabulary: of token ids, else None.
        name: a model type, such as vit or bert.
        pretrained: a folder of save_pretrained.
        with_defaults: without `pretrained`, fit the sizes of the configuration to the rows.
        args: fields of the model's configuration.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        vocabulary: Vocabulary | None,
        name: str | None,
        pretrained: Path | None,
        args: dict[str, Any],
        *,
        with_defaults: bool,
    ) -> None:
        super().__init__()
        if with_defaults:
            args = _sizes(shape, vocabulary, name) | args
        config = configuration(name, pretrained, args)
        if hasattr(config, "apply_spec_augment"):
            config.apply_spec_augment = False  # it draws from NumPy's global generator
        if pretrained:
            self.model, loading = AutoModel.from_pretrained(
                pretrained,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
            lacking = [key for key in loading["missing_keys"] if "pooler" not in key]
            if lacking:
                raise ValueError(f"{pretrained} has no weights {sorted(lacking)[0]!r}")
        else:
            self.model = AutoModel.from_config(config, dtype=torch.float32)
        self.pad = vocabulary.pad if vocabulary else 0
        self.num_channels = getattr(config, "num_channels", None)
        self.input_name = str(self.model.main_input_name)
        takes = {"pixel_values": len(shape) == 3, "input_ids": vocabulary is not None}
        takes["input_values"] = vocabulary is None and (len(shape) == 1 or shape[:-2] == (1,))
        if not takes.get(self.input_name):
            raise ValueError(f"it takes {self.input_name}, which these rows are not")
        size = getattr(config, "vocab_size", None)
        if vocabulary and size is not None and size < vocabulary.size:
            raise ValueError(f"its vocabulary has {size} ids, that of the text {vocabulary.size}")
        self.eval()
        with torch.no_grad():
            rows = torch.zeros(2, *shape, dtype=torch.long if vocabulary else torch.float32)
            self.out_dim = self(rows).shape[1]
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        attention = None
        if self.input_name == "input_ids":
            attention = x != self.pad
            attention[:, 0] = True  # a row that is all padding would have no finite output
            output = self.model(input_ids=x, attention_mask=attention.long())
        else:
            if x.ndim == 4 and self.input_name == "input_values":
                x = x[:, 0].transpose(1, 2)  # (B, T, F)
            elif x.ndim == 4 and x.shape[1] == 1 and self.num_channels == 3:
                x = x.expand(-1, 3, -1, -1)
            output = self.model(**{self.input_name: x})
        pooled: Tensor | None = output.get("pooler_output")
        if pooled is not None:
            return pooled.flatten(1)
        hidden: Tensor = output.last_hidden_state  # (B, L, D) or (B, D, H, W)
        if attention is not None:
            weights = attention.unsqueeze(2).to(hidden.dtype)
            return (hidden * weights).sum(1) / weights.sum(1)
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)


def _sizes(
    shape: tuple[int, ...], vocabulary: Vocabulary | None, name: str | None
) -> dict[str, Any]:
    """Fields of a model type's configuration that follow from the rows."""
    known = AutoConfig.for_model(name).to_dict()
    sizes: dict[str, Any] = {}
    if vocabulary:
        sizes = {"vocab_size": vocabulary.size, "pad_token_id": vocabulary.pad}
    elif len(shape) == 3:
        sizes = {"num_channels": shape[0], "image_size": shape[-1]}
        sizes |= {"num_mel_bins": shape[1], "max_length": shape[2]}
    return {key: value for key, value in sizes.items() if key in known}
