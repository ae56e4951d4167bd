"""Read-only HTTP service over a store: plans, their statistics, runs, and a web page."""
