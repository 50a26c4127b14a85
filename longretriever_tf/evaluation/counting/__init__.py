"""The baselines that count: popularity, neighbors, EASE, and how they are tuned on validation."""
