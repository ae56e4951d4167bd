"""From shards to plans: samples, features, scores and plans, without training."""
