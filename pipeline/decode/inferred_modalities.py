"""The modalities that members make up, and settings that fit them, inferred from their headers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.decode.config import (
    CONFIG,
    AudioSpec,
    ImageSpec,
    TensorSpec,
    TextSpec,
    VideoSpec,
)
from pipeline.decode.fitting import audio_fields, image_fields, text_fields, video_fields
from pipeline.decode.media.shapes import AnySpec
from pipeline.decode.sandbox.sandbox import sandbox_for
from pipeline.errors import ConfigError, SampleError
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import CLIPS, KINDS_OF


class Modalities:
    """The modalities that members of some suffixes make up.

    Attributes:
        suffixes: by modality, the suffixes that it reads.
        problem: why the first member that cannot be read cannot be.
    """

    def __init__(self) -> None:
        self.suffixes: dict[str, list[str]] = {}
        self.problem = ""
        self._kinds: dict[str, str] = {}
        self._facts: dict[str, list[list[Any]]] = defaultdict(list)
        self._num_with: dict[tuple[str, str], tuple[int, int]] = {}

    def probe(self, suffix: str, members: Iterable[bytes]) -> None:
        """Add what members of a suffix contain; those that cannot be read are skipped."""
        facts = []
        for data in members:
            try:
                facts.append(sandbox_for({}, Limits()).probe(data, suffix))
            except SampleError as error:
                self.problem = self.problem or f".{suffix}: {error.detail}"
        for kind in ("audio", "video", "image", "tensor", "text"):
            having = [each[kind] for each in facts if kind in each]
            if not having:
                continue
            name = suffix.partition(".")[0] if "." in suffix else kind
            if self._kinds.setdefault(name, kind) != kind:
                raise ConfigError(
                    f"Modality {name!r} is {self._kinds[name]} in {self.suffixes[name][0]} and"
                    f" {kind} in {suffix}",
                    f"Write a {CONFIG} next to the shards that defines the modalities.",
                )
            self.suffixes.setdefault(name, []).append(suffix)
            self._facts[name] += having
            self._num_with[name, suffix] = len(having), len(facts)

    def check(self, together: Mapping[frozenset[str], int]) -> None:
        """Raise ConfigError if a sample has two members for a modality.

        Sound in a clip beside a file of audio is not another member.
        """
        for name, suffixes in self.suffixes.items():
            for present in together:
                both = [suffix for suffix in suffixes if suffix in present]
                own = [s for s in both if KINDS_OF[s.rpartition(".")[2]][0] == self._kinds[name]]
                if len(own) > 1 or (len(both) > 1 and not own):
                    raise ConfigError(
                        f"Some samples have two members for modality {name!r}:"
                        f" {' and '.join(both[:2])}",
                        f"Write a {CONFIG} next to the shards that defines the modalities.",
                    )

    def specs(self, counts: Mapping[str, int]) -> dict[str, AnySpec]:
        """The spec of each modality; it reads its most frequent suffix first, clips last."""
        return {name: self._spec(name, self._ordered(name, counts)) for name in self.suffixes}

    def _ordered(self, name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
        is_sound = self._kinds[name] == "audio"
        clip = {s: is_sound and s.rpartition(".")[2] in CLIPS for s in self.suffixes[name]}
        return tuple(sorted(clip, key=lambda s: (clip[s], -counts[s], s)))

    def _spec(self, name: str, member: tuple[str, ...]) -> AnySpec:
        kind, facts = self._kinds[name], self._facts[name]
        if kind == "video":
            return VideoSpec(kind="video", member=member, **video_fields([f[0] for f in facts]))
        if kind == "audio":
            fields = audio_fields([(f[0], f[1]) for f in facts])
            return AudioSpec(kind="audio", member=member, **fields)
        if kind == "image":
            fields = image_fields([(f[0], f[1]) for f in facts])
            return ImageSpec(kind="image", member=member, **fields)
        if kind == "text":
            return TextSpec(kind="text", member=member, **text_fields([f[0] for f in facts]))
        shape = Counter(tuple(each) for each in facts).most_common(1)[0][0] or (1,)
        return TensorSpec(kind="tensor", member=member, shape=shape)

    def texts(self, counts: Mapping[str, int]) -> list[str]:
        """What each modality reads, such as "audio: mp4 (15 of 16 have sound)"."""
        texts = []
        for name in self.suffixes:
            parts = []
            for suffix in self._ordered(name, counts):
                num, total = self._num_with[name, suffix]
                what = {"audio": "sound", "video": "pictures"}.get(self._kinds[name], "content")
                parts.append(suffix + f" ({num} of {total} have {what})" * (num < total))
            texts.append(
                f"{name}: {', '.join(parts)}" + f" ({len(parts)} suffixes)" * (len(parts) > 1)
            )
        return texts
