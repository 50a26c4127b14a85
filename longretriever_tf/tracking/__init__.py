"""Experiment trackers, all optional: what a training and its evaluations also tell Weights & Biases or MLflow."""
