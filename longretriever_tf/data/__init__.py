"""From a log to batches: vocabularies, hard search, and what the recipe adds to the paper."""
