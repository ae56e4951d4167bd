"""A plan as the batches of any PyTorch DataLoader."""
