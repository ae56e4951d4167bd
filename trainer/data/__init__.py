"""Loading of planned batches from feature tables to the device."""
