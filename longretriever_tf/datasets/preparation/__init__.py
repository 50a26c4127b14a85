"""From tables of any size to a log in shards on disk, in memory that does not grow with the log.

Three passes, each by several processes and each resumable:

1. `pieces`: the events table is read once, a piece at a time, and each piece is written sorted by user.
2. `vocabulary`: the pieces' users and items become those of the whole log; users are split into shards.
3. `histories`: each shard takes its users' events out of all pieces, and `build_log` makes whole histories of them.

`run` puts them together. The log is the one that `event_log.source.read_event_log` makes in memory.
"""
