"""Neural baselines on a user's latest events of any category: two-tower, MIND, ComiRec-SA."""
