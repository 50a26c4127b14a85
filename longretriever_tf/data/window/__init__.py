"""The training window of a log on disk: made shard by shard, in processes, and read back batch by batch.

The same functions make it that make the window in memory; `shard_jobs` calls them for one shard, `build` in order.
"""
