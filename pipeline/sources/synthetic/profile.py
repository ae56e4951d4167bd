"""What a profile of generated datasets consists of, and what it draws samples for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pipeline.decode.config import ModalitySpec
from pipeline.sources.shard_writer import JsonValue

Shares = tuple[float, float, float]
"""Fractions of the train, validation and test splits."""

Metadata = dict[str, JsonValue]
Members = dict[str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What is known of the samples before their content is drawn.

    class_names: name of each class; labels: class number of each sample; splits: split of each
    sample; modalities: what to draw.
    """

    class_names: Sequence[str]
    labels: Sequence[int]
    splits: Sequence[str]
    seed: int
    modalities: Sequence[str]

    def rng(self, number: int, stream: int) -> Generator:
        """Random numbers of a sample. With a stream per modality, its content depends on no other.

        They do not depend on the number of samples, so a larger dataset begins with a smaller one.
        """
        return np.random.default_rng([self.seed, number, stream])


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A kind of generated dataset.

    draw: yields the metadata and the encoded members of each sample; specs: decode settings by
    modality; samples, shares: defaults.
    """

    draw: Callable[[Outline], Iterator[tuple[Metadata, Members]]]
    specs: Mapping[str, ModalitySpec]
    samples: int
    shares: Shares


def sample_id(number: int) -> str:
    """Id and key of a sample."""
    return f"sample-{number:06d}"
