"""Sources of shards: importers of datasets on disk, and a generator of synthetic samples."""
