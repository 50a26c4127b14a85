"""From a router's queries to one answer: asks the shards over gRPC, and merges their lists."""
