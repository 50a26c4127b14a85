"""The one ranker downstream of all channels: boosted trees on features of (user, item). Imports no TensorFlow."""

import dataclasses
import types
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class RankerConfig:
    """Settings of the boosted trees.

    Attributes:
      seed: of the users held out for early stopping, and of LightGBM.
      learning_rate: shrinkage.
      num_leaves: leaves of a tree.
      min_leaf: training pairs in a leaf, at least.
      max_rounds: trees, at most.
      patience: stop after this many rounds without a better loss on the held-out users.
      held_out: share of the users that early stopping looks at; the trees never learn from them.
      num_threads: 0: all cores. Changes speed only.
    """

    seed: int = 1
    learning_rate: float = 0.08
    num_leaves: int = 63
    min_leaf: int = 50
    max_rounds: int = 400
    patience: int = 20
    held_out: float = 0.2
    num_threads: int = 0


@dataclasses.dataclass(frozen=True)
class Ranker:
    """A trained ranker.

    Attributes:
      booster: lightgbm.Booster.
      report: rounds, pairs, positives, loss on the held-out users, the features of the highest gain.
    """

    booster: Any
    report: dict[str, Any]

    def score(self, features: np.ndarray) -> np.ndarray:
        """Probability of being taken, [n] float64, from [n, F] float32."""
        if not len(features):
            return np.zeros(0)
        return np.asarray(self.booster.predict(features, num_iteration=self.booster.best_iteration))


def fit_ranker(
    features: np.ndarray, label: np.ndarray, row: np.ndarray, names: tuple[str, ...], config: RankerConfig
) -> Ranker:
    """Learns which candidates were taken: logistic loss over pairs, early stopping on users set apart.

    Args:
      features: [n, F] float32.
      label: the user took the item in the window after the features' time, [n] bool.
      row: the user of each pair, [n] int64.
      names: of the columns, [F].
      config: of the trees.

    Raises:
      UserError: LightGBM does not load; too few users; no candidate was taken, or all were.
    """
    lightgbm = import_lightgbm()
    users = np.unique(row)
    num_held_out = max(1, round(config.held_out * len(users)))
    apart = np.random.default_rng(config.seed).permutation(users)[:num_held_out]
    is_apart = np.isin(row, apart)
    for part, where in ((label[~is_apart], "learns from"), (label[is_apart], "stops by")):
        if not len(part) or part.all() or not part.any():
            raise UserError(
                f"the ranker {where} {len(part)} candidates of the validation window, {int(part.sum())} of them taken: "
                "both kinds are needed; use a longer --window_days, a larger --k or more channels"
            )
    columns = [name.replace(",", "").replace(" ", "_") for name in names]  # LightGBM takes no JSON characters
    learn = lightgbm.Dataset(features[~is_apart], label[~is_apart], feature_name=columns, params={"verbose": -1})
    stop = learn.create_valid(features[is_apart], label[is_apart])
    parameters = {
        "objective": "binary",
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": config.min_leaf,
        "num_threads": config.num_threads,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    stopping = lightgbm.early_stopping(config.patience, verbose=False)
    booster = lightgbm.train(parameters, learn, config.max_rounds, valid_sets=[stop], callbacks=[stopping])
    return Ranker(booster, _report(booster, label, names))


def _report(booster: Any, label: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    gain = booster.feature_importance("gain")
    best = np.argsort(-gain, kind="stable")[:10]
    return {
        "library": "lightgbm",
        "num_trees": int(booster.best_iteration),
        "num_pairs": len(label),
        "num_taken": int(label.sum()),
        "held_out_log_loss": float(booster.best_score["valid_0"]["binary_logloss"]),
        "gain": {names[f]: float(gain[f] / max(gain.sum(), 1e-30)) for f in best},
    }


def import_lightgbm() -> types.ModuleType:
    """LightGBM, imported late: its wheel needs the system's OpenMP library, which bare images lack.

    Raises:
      UserError: it is not installed, or does not load.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise UserError("the ranker needs LightGBM: python -m pip install lightgbm (or: make setup)") from error
    except OSError as error:
        raise UserError(f"LightGBM does not load ({error}): install OpenMP, say apt-get install libgomp1") from error
    return lightgbm
