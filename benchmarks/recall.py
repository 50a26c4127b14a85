"""The figures that benchmarks judge a model by: this package's evaluator on the validation window."""

from typing import Any

FIGURES = {"recall@100": ("all", "recall@100"), "within_category_recall@20": ("within_category", "recall@20")}
"""Their names, and where `evaluate_scorer` puts them."""


def judge(scorer: Any, truth: Any, category_offset: Any) -> dict[str, float]:
    """The `FIGURES` of a scorer."""
    from longretriever_tf.evaluation.evaluator import evaluate_scorer

    made = evaluate_scorer(scorer, truth, category_offset, ks=(100,), chunk=512)
    return {name: float(made[section][figure]) for name, (section, figure) in FIGURES.items()}
