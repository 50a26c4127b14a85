"""Serving by category ranges: a router that chooses and encodes, and shards that search. Merging is in serving."""
