r"""What this log lets anyone learn: boosted trees over counts, and over counts and a run's own scores (the stack).

  python benchmarks/yardstick.py --flagfile=configs/demo.flags --split=validation \
      --baseline_settings=results/baselines/complete_journey/baseline_settings.json --lists=.peers/lists/trees.parquet
  python -m longretriever_tf.evaluate --run_dir=runs/demo_validation --lists=trees:.peers/lists/trees.parquet

Candidates are the best --candidates items of each counting baseline (popularity, own items, TIFU-kNN, ItemKNN, EASE,
EASE with own items), for all and for novel items; features are the funnel's counts of recency, rhythm and popularity,
and the baselines' scores. Two models are fitted, one for each task, on what users took in the validation window:
--split=validation ranks each fifth of the users by trees that the other four fitted, --split=test ranks all users, as
of the test window, by trees of all users of the validation window. --stack_run_dir (a run of --cut=validation), and
for the test window --stack_test_run_dir (of --cut=test), add that run's candidates and scores: the stack, a measure of
the limit.
On cores that others use too, OMP_NUM_THREADS=1 is much faster: LightGBM's threads wait by spinning.
The lists are read by `evaluate --lists`, whose metrics.png and metrics.per_user.npz tell them by length of history.
"""

import json
import os
from typing import Any, NamedTuple

import numpy as np
from absl import flags as absl_flags

from longretriever_tf.config import flags

flags.define_config_flags("data", "model", "train", "retrieval", "index", "baseline")
_SPLIT = absl_flags.DEFINE_enum("split", "validation", ["validation", "test"], "Which window's lists.")
_SETTINGS = absl_flags.DEFINE_string("baseline_settings", "", "Of this log; empty: the baselines are tuned first.")
_STACK_RUN = absl_flags.DEFINE_string(
    "stack_run_dir", "", "A run with --cut=validation whose scores join; empty: none."
)
_TEST_RUN = absl_flags.DEFINE_string("stack_test_run_dir", "", "The run with --cut=test, for --split=test.")
_CANDIDATES = absl_flags.DEFINE_integer("candidates", 200, "Items of each baseline and task.", lower_bound=1)
_FOLDS = absl_flags.DEFINE_integer("folds", 5, "Parts of the users, on validation.", lower_bound=2)
_LISTS = absl_flags.DEFINE_string("lists", ".peers/lists/trees.parquet", "Where the lists go, and a .json beside them.")
_CHUNK, _K, _SVD_DIM = 64, 500, 64
_NAME = "trees"


class Pairs(NamedTuple):
    """Candidates of a window.

    Attributes:
      row: position of the user among the truth's users, [n] int64.
      item: [n] int64.
      is_novel: the user never had the item, [n] bool.
      features: [n, F] float32.
      taken: within the window, [n] bool.
    """

    row: np.ndarray
    item: np.ndarray
    is_novel: np.ndarray
    features: np.ndarray
    taken: np.ndarray


class Pool(NamedTuple):
    """All that a window gives the trees."""

    pairs: Pairs
    names: tuple[str, ...]
    users: np.ndarray
    user_id: np.ndarray
    item_id: np.ndarray


def main(argv: list[str]) -> None:
    """Runs the yardstick."""
    del argv
    config = flags.config_from_flags()
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.data.batches.prepared_data import load_split
    from longretriever_tf.evaluation.evaluate_baselines import BaselineChoice, find_settings, settings_path

    log, cuts = load_split(config)
    choice = BaselineChoice("all", _SETTINGS.value, settings_path(_LISTS.value))
    chosen = find_settings(choice, config, log, cuts, "python benchmarks/yardstick.py")
    asked = learned = build_pool(config, log, cuts, "validation", chosen, _STACK_RUN.value)
    if _SPLIT.value == "test":
        asked = build_pool(config, log, cuts, "test", chosen, _TEST_RUN.value)
    scores, reports = rank(learned, asked, config.train.seed)
    write(asked, scores)
    facts = {
        **describe_origin("python benchmarks/yardstick.py", config.train.seed),
        "data": config.data.dataset,
        "split": _SPLIT.value,
        "stack_run_dir": _STACK_RUN.value,
        "candidates_per_user": len(asked.pairs.item) / len(asked.users),
        "rankers": reports,
    }
    write_text_atomically(os.path.splitext(_LISTS.value)[0] + ".json", json.dumps(facts, indent=2) + "\n")
    print(f"written: {_LISTS.value}")


def build_pool(config: Any, log: Any, cuts: Any, split: str, chosen: Any, run_dir: str) -> Pool:
    """Candidates and features as of the window's start."""
    from longretriever_tf.data.recipe.item_svd import fit_item_svd
    from longretriever_tf.evaluation.counting.popularity import fit_baselines
    from longretriever_tf.evaluation.counting.tuning import fit_chosen
    from longretriever_tf.evaluation.evaluate_baselines import open_log
    from longretriever_tf.evaluation.funnel.ranker_features import RankerFeatures
    from longretriever_tf.evaluation.open_run import open_run

    corpus, encoded, truth, as_of = open_log(config, log, cuts, split)
    scorers = [*fit_baselines(encoded, corpus.num_items, corpus.category_offset, as_of)]
    scorers += fit_chosen(encoded, corpus.num_items, as_of, chosen)
    if run_dir:
        run = open_run(run_dir, split)
        assert run.corpus.item_id.tolist() == corpus.item_id.tolist(), f"{run_dir} was cut elsewhere"
        scorers.append(run.scorer)
    vectors = fit_item_svd(encoded.before(as_of), corpus, _SVD_DIM, config.train.seed)
    describe = RankerFeatures(encoded, corpus, vectors, as_of)
    parts = []
    for start in range(0, truth.num_users, _CHUNK):
        part = truth.rows(start, min(start + _CHUNK, truth.num_users))
        pairs = _candidates(scorers, part, describe)
        parts.append(pairs._replace(row=pairs.row + start))
        print(f"candidates of {split}: {start + part.num_users} of {truth.num_users} users", flush=True)
    joined = Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    names = (*describe.names, *(f"score of {scorer.name}" for scorer in scorers))
    return Pool(joined, names, truth.users, log.user_id, corpus.item_id)


def _candidates(scorers: list[Any], truth: Any, describe: Any) -> Pairs:
    """The union of the scorers' best items for both tasks, with their scores as the last columns."""
    from longretriever_tf.common.schema import FIRST_KNOWN
    from longretriever_tf.evaluation.ranking import top_k

    tables = [np.array(scorer.score(truth.users), np.float32) for scorer in scorers]
    had = np.zeros(tables[0].shape, bool)
    had[truth.interacted_row(), truth.interacted_item] = True
    chosen = np.zeros_like(had)
    every = np.arange(truth.num_users)[:, None]
    for table in tables:
        table[:, :FIRST_KNOWN] = -np.inf
        for scores in (table, np.where(had, -np.inf, table)):
            best = top_k(scores, _CANDIDATES.value)
            chosen[np.broadcast_to(every, best.shape)[best >= 0], best[best >= 0]] = True
    row, item = np.nonzero(chosen)
    wanted = np.zeros_like(had)
    wanted[truth.pair_row(), truth.item] = True
    columns = [describe(truth.users[row], item), *(table[row, item][:, None] for table in tables)]
    return Pairs(row, item, ~had[row, item], np.concatenate(columns, axis=1), wanted[row, item])


def rank(learned: Pool, asked: Pool, seed: int) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Scores of the asked candidates by task, and what each fit reports; on one pool, users never rank themselves."""
    from longretriever_tf.evaluation.funnel.ranker import RankerConfig, fit_ranker

    is_same = learned is asked
    fold = np.random.default_rng(seed).integers(0, _FOLDS.value, len(asked.users)) if is_same else None
    scores, reports = {}, []
    for task in ("all", "novel"):
        scores[task] = np.full(len(asked.pairs.item), -np.inf)
        for part in range(_FOLDS.value if is_same else 1):
            fits = learned.pairs.is_novel | (task == "all")
            asks = asked.pairs.is_novel | (task == "all")
            if fold is not None:
                fits, asks = fits & (fold[learned.pairs.row] != part), asks & (fold[asked.pairs.row] == part)
            pairs = learned.pairs
            ranker = fit_ranker(
                pairs.features[fits], pairs.taken[fits], pairs.row[fits], learned.names, RankerConfig(seed=seed)
            )
            scores[task][asks] = ranker.score(asked.pairs.features[asks])
            reports.append({"task": task, "part": part, **ranker.report})
            print(f"fitted: {json.dumps(reports[-1])}", flush=True)
    return scores, reports


def write(asked: Pool, scores: dict[str, np.ndarray]) -> None:
    """Writes the lists of both tasks."""
    from longretriever_tf.evaluation.write_lists import writing_lists

    with writing_lists(_LISTS.value, _NAME, asked.user_id, asked.item_id) as on_lists:
        for task, score in scores.items():
            order = np.lexsort((asked.pairs.item, -score, asked.pairs.row))
            order = order[score[order] > -np.inf]
            row = asked.pairs.row[order]
            position = np.arange(len(row)) - np.searchsorted(row, row)
            lists = np.full((len(asked.users), _K), -1, np.int64)
            kept = position < _K
            lists[row[kept], position[kept]] = asked.pairs.item[order[kept]]
            on_lists(_NAME, task, asked.users, lists)


if __name__ == "__main__":
    flags.run_command(main)
