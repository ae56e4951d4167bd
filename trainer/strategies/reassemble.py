"""Reassembling alone, from the paper's ablation: modality-pure batches without masks."""

from trainer.strategies.base import TrainStep


class Reassemble(TrainStep):
    """The step of joint training, on any batch (arXiv 2506.11550, section 4, ablation)."""

    masks = False
