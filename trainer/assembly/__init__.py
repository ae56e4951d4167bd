"""Assembly: a model from each modality's best epoch, with a fused prediction fitted afterwards."""
