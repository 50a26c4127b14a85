"""iALS (Hu et al., ICDM 2008; tuned as Rendle et al., RecSys 2022, advise) and BPR, by implicit, in RecTools' build."""

import itertools
from typing import Any

import numpy as np
from peer_split import Score, Split

PACKAGES = ("pm-implicit", "numpy", "scipy")


def settings(name: str) -> list[dict[str, Any]]:
    """The grid, widest differences first."""
    if name == "bpr":
        grid = itertools.product((64, 128), (0.05, 0.01), (0.01, 0.001), (50, 150))
        return [
            {"factors": factors, "learning_rate": rate, "regularization": penalty, "iterations": rounds}
            for factors, rate, penalty, rounds in grid
        ]
    grid = itertools.product((128, 64, 256), ("log", "binary"), (180.0, 0.0), (10.0, 1.0), (1.0, 10.0, 100.0))
    made = [
        {"factors": factors, "weight": weight, "decay_days": days, "alpha": alpha, "regularization": penalty}
        for factors, weight, days, alpha, penalty in grid
        if not (weight == "binary" and days)
    ]
    # All factors and weights are tried within any budget: the grid in an order drawn once.
    return [made[i] for i in np.random.default_rng(1).permutation(len(made))]


def fit(name: str, split: Split, setting: dict[str, Any], seed: int) -> tuple[Score, int]:
    """Scores, and the number of (user, item) pairs times passes."""
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking

    if name == "bpr":
        taken = split.matrix()
        taken.data[:] = 1.0
        model = BayesianPersonalizedRanking(**setting, use_gpu=False, random_state=seed)
    else:
        taken = split.matrix(split.decayed(setting["decay_days"]))
        taken.data = np.log1p(taken.data) if setting["weight"] == "log" else np.ones_like(taken.data)
        rest = {key: setting[key] for key in ("factors", "regularization", "alpha")}
        model = AlternatingLeastSquares(**rest, iterations=15, use_gpu=False, random_state=seed)
    model.fit(taken, show_progress=False)
    users, items = np.asarray(model.user_factors), np.asarray(model.item_factors)
    return lambda rows: users[rows] @ items.T, int(taken.nnz) * int(model.iterations)
