"""The metrics that benchmarks evaluate a model by: this package's evaluator on the validation window."""

from typing import Any

METRICS = {"recall@100": ("all", "recall@100"), "within_category_recall@20": ("within_category", "recall@20")}
"""Their names, and where `evaluate_scorer` puts them."""


def measure_recall(scorer: Any, truth: Any, category_offset: Any) -> dict[str, float]:
    """The `METRICS` of a scorer."""
    from longretriever_tf.evaluation.evaluator import evaluate_scorer

    metrics = evaluate_scorer(scorer, truth, category_offset, ks=(100,), chunk=512)
    return {name: float(metrics[section][key]) for name, (section, key) in METRICS.items()}
