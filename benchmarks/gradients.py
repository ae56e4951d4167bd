"""Bytes and seconds of the exchange of gradients in modality-pure steps, relative to joint ones.

    python benchmarks/gradients.py [--batch 8] [--repeats 7]

Two processes on this machine train a ResNet-18 per modality (a frame of 3x64x64 pixels, a 64x64
spectrogram) and exchange gradients over gloo. `ratio` is that of the bytes that each rank sends in
a step. `seconds` are medians of steps without the optimizer: with the exchange of Remix, with
DistributedDataParallel that searches for unused parameters, and with no exchange, which is the
computation alone.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from _report import report
from torch import Tensor, nn

from pipeline.storage.schemas import ALL
from trainer.gradient_reducer import GradientReducer
from trainer.models.model import FUSED, MultimodalModel, Outputs, build_model
from trainer.models.model_config import ModelConfig
from trainer.process_group import World

SHAPES = {"video": (3, 64, 64), "audio": (1, 64, 64)}
NUM_CLASSES = 6
KINDS = (ALL, *SHAPES)
WHAT = {
    "above": "bytes that a rank sends in a modality-pure step",
    "below": "bytes that it sends in a joint step",
    "goal": 0.55,
}


def loss_of(outputs: Outputs, labels: Tensor) -> Tensor:
    """Cross-entropy of the fused and the active unimodal heads."""
    logits = [outputs.fused, *outputs.unimodal.values()]
    return torch.stack([F.cross_entropy(each, labels) for each in logits]).sum()


def measure(rank: int, folder: str, batch: int, repeats: int) -> None:
    """Train steps of each kind with each exchange; rank 0 writes what they took."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    encoder = {"kind": "resnet18"}
    config = ModelConfig.model_validate({"encoder": encoder, "mask": "skip"})
    model = build_model(config, SHAPES, NUM_CLASSES, seed=0).train()
    searching = build_model(config, SHAPES, NUM_CLASSES, seed=0).train()
    wrapped = nn.parallel.DistributedDataParallel(searching, find_unused_parameters=True)
    reducer = GradientReducer(model, World(rank=rank, size=2))
    inputs = {name: torch.randn(batch, *shape) for name, shape in SHAPES.items()}
    present = {name: torch.ones(batch, dtype=torch.bool) for name in SHAPES}
    labels = torch.arange(batch) % NUM_CLASSES

    def exchanged(kind: str) -> None:
        names = {FUSED, *(SHAPES if kind == ALL else [kind])}
        reducer.backward(
            loss_of(model(inputs, present, kind, loss_outputs=names), labels),
            model.trained_by(kind, names),
        )

    def searched(kind: str) -> None:
        names = {FUSED, *(SHAPES if kind == ALL else [kind])}
        loss_of(wrapped(inputs, present, kind, loss_outputs=names), labels).backward()

    def alone(kind: str) -> None:
        names = {FUSED, *(SHAPES if kind == ALL else [kind])}
        loss_of(model(inputs, present, kind, loss_outputs=names), labels).backward()

    ways: dict[str, Callable[[str], None]] = {
        "reducer": exchanged,
        "ddp": searched,
        "none": alone,
    }
    seconds: dict[str, list[float]] = {f"{kind}/{way}": [] for kind in KINDS for way in ways}
    num_bytes = {}
    for _ in range(repeats + 1):
        for kind in KINDS:
            for way, step in ways.items():
                clear(model, searching)
                dist.barrier()
                start = time.perf_counter()
                step(kind)
                seconds[f"{kind}/{way}"].append(time.perf_counter() - start)
            num_bytes[kind] = reducer.num_bytes
    if not rank:
        torch.save((num_bytes, seconds), Path(folder) / "result")
    dist.destroy_process_group()


def clear(*models: MultimodalModel) -> None:
    """Remove the gradients."""
    for model in models:
        model.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8, help="rows of each rank")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = (folder, arguments.batch, arguments.repeats)
        torch.multiprocessing.spawn(measure, args=given, nprocs=2)
        num_bytes, seconds = torch.load(Path(folder) / "result")
    medians = {key: round(statistics.median(values[1:]), 4) for key, values in seconds.items()}
    pure = max(num_bytes[name] for name in SHAPES)
    report("gradients", pure / num_bytes[ALL], **WHAT, bytes=num_bytes, seconds=medians)


if __name__ == "__main__":
    main()
