"""What the prior of `bandit` costs and what a log says of it, on an export's own log.

  python benchmarks/bench_bandit_log.py --export_dir=exports/longretriever --output=bandit_log.json

Users with events in --bench_days after the cut, drawn by --seed, are asked as of the cut. `recall@100` is that of their
lists without rewards, by n0, and of the default request: what exploring costs. `likelihood` is how probable their
choices by category are where each user's true shares vary around the model's p as Dirichlet(n0 p), in nats a choice,
over the distinct items of the days and over the first ten events: the best n0 is what the model's p is worth.
Where the days are a test window, choose nothing by it.
"""

import json
from typing import Any

import numpy as np
from absl import flags as absl_flags

from longretriever_tf.common import schema
from longretriever_tf.config import flags
from longretriever_tf.config.config import load_config

_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "Of `longretriever export`.")
_USERS = absl_flags.DEFINE_integer("bench_users", 600, "Users.", lower_bound=1)
_DAYS = absl_flags.DEFINE_integer("bench_days", 28, "Days after the cut.", lower_bound=1)
_PRIORS = absl_flags.DEFINE_list("bandit_priors", ["20", "50", "100", "200", "500", "1000"], "n0 to try.")
_SEED = absl_flags.DEFINE_integer("seed", 1, "Of the users; their own rows are the seeds of the draws.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_K, _ROWS, _FIRST = 100, 30, 10


def log_likelihood(p: np.ndarray, counts: np.ndarray, prior: float) -> float:
    """Of counts [U, C] as Dirichlet-multinomial around p [U, C], nats a count, without the coefficients."""
    from scipy.special import gammaln

    a, num = prior * p, counts.sum(1)
    each = gammaln(prior) - gammaln(prior + num) + (gammaln(a + counts) - gammaln(a)).sum(1)
    return float(each.sum() / num.sum())


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.datasets.load import load_log
    from longretriever_tf.retrieval.export.saved_model import extra_config_dir
    from longretriever_tf.serving.client.in_process import LocalClient, request_of

    client = LocalClient(_EXPORT_DIR.value)
    log, corpus = load_log(load_config(extra_config_dir(client.version_dir)).data), client.corpus
    cut, index = corpus.cut, {str(name): row for row, name in enumerate(corpus.category_name)}
    category = dict(zip(corpus.item_id.tolist(), corpus.item_category.tolist(), strict=True))
    users: list[int] = []
    after: list[list[Any]] = []
    for user in np.random.default_rng(_SEED.value).permutation(log.num_users):
        events = slice(*log.offset[user : user + 2])
        time, item = log.timestamp[events], log.items.item_id[log.item_row[events]]
        taken = item[(time >= cut) & (time < cut + _DAYS.value * schema.DAY_S)].tolist()
        taken = [each for each in taken if category.get(each, 0) >= schema.FIRST_KNOWN]
        if taken and (time < cut).any() and len(users) < _USERS.value:
            users.append(int(user))
            after.append(taken)

    def requests(rows: range, **options: Any) -> list[Any]:
        asked = (users[row] for row in rows)
        return [request_of(log, str(log.user_id[user]), cut, seed=user, **options) for user in asked]

    parts = [range(start, min(start + _ROWS, len(users))) for start in range(0, len(users), _ROWS)]

    def recall(**options: Any) -> float:
        hits = []
        for rows in parts:
            for row, answer in zip(rows, client.retrieve(requests(rows, k=_K, **options)), strict=True):
                listed = {candidate.item_id for candidate in answer.candidates}
                hits.append(len(listed & set(after[row])) / len(set(after[row])))
        return round(float(np.mean(hits)), 4)

    p = np.full([len(users), corpus.num_categories], 1e-9)
    every = {"num_interests": corpus.num_categories, "top_interests": corpus.num_categories}
    for rows in parts:
        for row, interests in zip(rows, client.interests(requests(rows, **every)), strict=True):
            for one in interests:
                p[row, index[one.category]] += np.exp(one.score)
    p /= p.sum(1, keepdims=True)

    def count(chosen: list[list[Any]]) -> np.ndarray:
        return np.array([np.bincount([category[each] for each in one], minlength=p.shape[1]) for one in chosen])

    choices = {
        "distinct items": count([list(set(one)) for one in after]),
        "first ten": count([a[:_FIRST] for a in after]),
    }
    facts: dict[str, Any] = describe_origin("python benchmarks/bench_bandit_log.py", _SEED.value)
    facts |= {"users": len(users), "days": _DAYS.value, "cut": int(cut), "categories": corpus.num_categories}
    facts["recall@100"] = {"none": recall()} | {
        f"n0 = {n0}": recall(bandit="thompson", bandit_prior=float(n0)) for n0 in _PRIORS.value
    }
    facts["likelihood"] = {
        name: {f"n0 = {n0}": round(log_likelihood(p, counts, float(n0)), 4) for n0 in _PRIORS.value}
        for name, counts in choices.items()
    }
    report = json.dumps(facts, indent=2)
    print(report)
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, report + "\n")


if __name__ == "__main__":
    flags.run_command(main)
