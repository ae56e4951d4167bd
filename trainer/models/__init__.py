"""The multimodal classifier and its checkpoints."""
