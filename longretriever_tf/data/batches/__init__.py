"""From a log before its cut to batches of one category: examples, their tokens, and the input pipelines."""
