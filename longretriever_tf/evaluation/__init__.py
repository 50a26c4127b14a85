"""Evaluation: ground truth, metrics, baselines that count, the funnel, and the scorers that ask a trained model."""
