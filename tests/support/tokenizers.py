"""Tokenizers of transformers, tiny."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("[UNK]", "[CLS]", "[PAD]", "red", "green")


def save_tokenizer(folder: Path, *more: str, pad: str | None = "[PAD]") -> Path:
    """Save a tokenizer of words that begins each text with [CLS]."""
    vocabulary = {word: number for number, word in enumerate([*WORDS, *more])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", vocabulary["[CLS]"])]
    )
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad).save_pretrained(folder)
    return folder
