"""Plans: which rows share a batch, and which modality the batch trains."""
