"""Bytes of a sample -> one array a modality: `shapes` says of which form, `sample` decodes."""
