"""The hard search of training, evaluation and serving: the behaviors of one category in a history (eq. 1)."""
