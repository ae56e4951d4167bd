"""Where shards come from: generated clips, and data as people have it on disk."""
