"""A made world where the model is wrong about one category: what `bandit` loses until rewards have told it.

  python benchmarks/bench_bandit.py --output=results/bench_bandit.json

Each user chooses from one category a round, by shares q. The model's p is q but for one category, which holds
--bandit_missed of q and --bandit_believed of p. A list shows --bandit_shown of --bandit_categories categories; each
that is shown counts a trial, and the one that is chosen, if it is shown, a success. Three ways to choose what is shown:

  model      the best by p, whatever was logged: a request without `bandit`
  mean       the best by the posterior mean, n0 = the export's default: rewards without exploration
  thompson   the best by the draw of `retrieval.bandit`, the very function of the exported graph

`regret` is the part of q that the best list would show and this one does not, summed over the rounds; `last` that of
the last tenth of rounds, in percent of a choice. The worlds: p is q, and as above for each --bandit_believed.
"""

import json

import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

from longretriever_tf.config import flags
from longretriever_tf.config.input_names import BANDIT_PRIOR
from longretriever_tf.retrieval.bandit import draw_log_share

_USERS = absl_flags.DEFINE_integer("bandit_users", 100, "Users, each with rewards of his own.", lower_bound=1)
_ROUNDS = absl_flags.DEFINE_integer("bandit_rounds", 300, "Choices of each user.", lower_bound=10)
_CATEGORIES = absl_flags.DEFINE_integer("bandit_categories", 30, "Categories.", lower_bound=2)
_SHOWN = absl_flags.DEFINE_integer("bandit_shown", 5, "Categories in a list.", lower_bound=1)
_MISSED = absl_flags.DEFINE_float("bandit_missed", 0.25, "Part of the choices that the model does not expect.", 0, 1)
_BELIEVED = absl_flags.DEFINE_list("bandit_believed", ["0.02", "0.001"], "What the model expects in place of it.")
_PRIORS = absl_flags.DEFINE_list("bandit_priors", ["5", "20", "100", "1000"], "n0 to try.")
_SEED = absl_flags.DEFINE_integer("seed", 1, "Of the world and the draws.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_UNKNOWN = 2
"""Rows of categories that stand for padding and unknown."""


def make_world(
    rng: np.random.Generator, users: int, categories: int, missed: float, believed: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shares q of choices and p of the model, [U, C] each: of one category, q is `missed` and p `believed`."""
    usual = rng.dirichlet(np.full(categories, 0.5), users) + 1e-4
    surprise = np.arange(users), rng.integers(0, categories, users)
    usual[surprise] = 0.0
    usual /= usual.sum(1, keepdims=True)
    q, p = (1 - missed) * usual, (1 - believed) * usual
    q[surprise], p[surprise] = missed, believed
    return q, p


def simulate(
    rng: np.random.Generator, q: np.ndarray, p: np.ndarray, way: str, prior: float, shown: int, rounds: int
) -> np.ndarray:
    """Regret of each round, mean over the users, [rounds]; `way`: model, mean or thompson."""
    draw = tf.function(draw_log_share, autograph=False)
    users, categories = q.shape
    trials, successes = (np.zeros([users, categories + _UNKNOWN], np.float32) for _ in range(2))
    log_p = np.log(np.pad(p, [(0, 0), (_UNKNOWN, 0)], constant_values=1e-30)).astype(np.float32)
    best, regret = np.sort(q, 1)[:, -shown:].sum(1), []
    for step in range(rounds):
        if way == "thompson":
            seed = tf.range(users, dtype=tf.int64) + step * users
            score = draw(log_p, tf.fill([users], np.float32(prior)), trials, successes, seed).numpy()[:, _UNKNOWN:]
        else:
            logged = 0.0 if way == "model" else 1.0
            taken, of = (logged * count[:, _UNKNOWN:] for count in (successes, trials))
            score = (prior * p + taken) / (prior + of)
        listed = np.argpartition(-score, shown - 1, axis=1)[:, :shown]
        regret.append((best - np.take_along_axis(q, listed, 1).sum(1)).mean())
        chosen = (rng.random([users, 1]) > np.cumsum(q, 1)).sum(1).clip(max=categories - 1)
        rows = np.arange(users)[:, None]
        trials[rows, listed + _UNKNOWN] += 1
        successes[rows, listed + _UNKNOWN] += listed == chosen[:, None]
    return np.array(regret)


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    def measure(believed: float, way: str, prior: float) -> dict[str, float]:
        rng = np.random.default_rng(_SEED.value)  # the same users and choices for all
        q, p = make_world(rng, _USERS.value, _CATEGORIES.value, _MISSED.value, believed)
        regret = simulate(rng, q, p, way, prior, _SHOWN.value, _ROUNDS.value)
        last = 100 * regret[-_ROUNDS.value // 10 :].mean()
        return {"regret": round(float(regret.sum()), 2), "last": round(float(last), 2)}

    results = {
        f"p = {believed}": {"model": measure(believed, "model", 1.0), "mean": measure(believed, "mean", BANDIT_PRIOR)}
        | {f"thompson, n0 = {n0}": measure(believed, "thompson", float(n0)) for n0 in _PRIORS.value}
        for believed in (_MISSED.value, *map(float, _BELIEVED.value))
    }
    names = (
        "bandit_users",
        "bandit_rounds",
        "bandit_categories",
        "bandit_shown",
        "bandit_missed",
        "bandit_believed",
        "seed",
    )
    facts = describe_origin("python benchmarks/bench_bandit.py", _SEED.value)
    facts |= {name: absl_flags.FLAGS[name].value for name in names[:-1]} | results
    report = json.dumps(facts, indent=2)
    print(report)
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, report + "\n")


if __name__ == "__main__":
    flags.run_command(main)
