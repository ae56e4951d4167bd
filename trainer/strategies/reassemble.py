"""Reassembling alone, a row of the paper's ablation: batches of one modality's rows, in which nothing is masked."""

from trainer.strategies.base import TrainStep


class Reassemble(TrainStep):
    """The step of joint training on any batch (arXiv 2506.11550, section 4, ablation)."""

    masks = False
