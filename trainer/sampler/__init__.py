"""Batch sampler that reads a plan, for any PyTorch DataLoader."""
