"""Evaluates a finished run on a window, alongside the baselines that a sceptic would ask for."""

import dataclasses
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.progress import Progress
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.config.baselines import LONGRETRIEVER
from longretriever_tf.config.config import Config, RetrievalConfig
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.evaluation.calibration import CalibrationMeter
from longretriever_tf.evaluation.differences import differences_to_best
from longretriever_tf.evaluation.evaluate_baselines import BaselineChoice, find_settings, fit_all
from longretriever_tf.evaluation.evaluator import KS, Evaluation, Scorer, TaskScorer, evaluate_many
from longretriever_tf.evaluation.ground_truth import Truth
from longretriever_tf.evaluation.lists import read_list_scorers, report_lists, require_names
from longretriever_tf.evaluation.open_run import OpenWindow, open_window
from longretriever_tf.evaluation.per_user import tabulate_users, write_users
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.evaluation.served_scorer import ServedScorer
from longretriever_tf.evaluation.table import COLUMNS
from longretriever_tf.evaluation.variants import (
    RetrievalVariants,
    ask_variants,
    average_draws,
    variants_of,
)
from longretriever_tf.evaluation.write_lists import writing_lists
from longretriever_tf.models.baselines.model import load_baseline
from longretriever_tf.models.baselines.scorer import RecentScorer
from longretriever_tf.models.build import load_models
from longretriever_tf.retrieval.fingerprint import fingerprint_towers

_CHUNK = 512
_PROGRAM = "longretriever evaluate"
_SIMPLE = BaselineChoice()
_NO_VARIANTS = RetrievalVariants()
_MAX_SCORES = 40_000_000
"""A chunk holds at most this many (user, item) scores; bounds memory (some seven copies of 4 bytes each)."""

PAPER_SERVING = RetrievalConfig(interest="paper", num_interests=5, top_interests=20, merge="round_robin")
"""What the paper serves: 5 interests drawn from the top 20 of eq. 3, merged in turn."""


def evaluate_run(
    config: Config,
    split: str,
    max_users: int = 0,
    baselines: BaselineChoice = _SIMPLE,
    variants: RetrievalVariants = _NO_VARIANTS,
    users_path: str = "",
    other_log: bool = False,
) -> dict[str, Any]:
    """Metrics of the run and the baselines on the window `split`, as `metrics.json` holds them.

    Args:
      config: of the run.
      split: "validation" or "test".
      max_users: evaluate only the first so many users; 0: all.
      baselines: which of them to evaluate too.
      variants: other ways of asking the run, evaluated too.
      users_path: where the metrics of every user go (`per_user.tabulate_users`); empty: nowhere.
      other_log: as of `open_run.open_window`.

    Raises:
      UserError: the run has seen the window, has not finished, or is of another log.
    """
    retrievals = _retrieval_variants(config, variants.group)
    window = open_window(config, split, "--split={}", other_log)
    corpus, truth = window.corpus, window.truth
    if max_users:
        truth = truth.rows(0, min(max_users, truth.num_users))
    lists = read_list_scorers(baselines.lists, corpus, window.encoded.user_id, truth)
    chosen = find_settings(baselines, config, window.log, window.cuts, _PROGRAM)
    scorers = [] if variants.export_alone else _scorers_of_run(config, window, retrievals, variants.draw_seeds)
    at = next((at for at, one in enumerate(scorers) if isinstance(one, TaskScorer) and one.is_probability), 0)
    meters = [CalibrationMeter(scorers[at], truth, corpus.category_offset)] if scorers else []
    rivals = [*fit_all(baselines, chosen, window.encoded, corpus.category_offset, window.as_of), *lists]
    scorers[at : at + 1] = meters
    scorers += rivals
    served = [make_served(config, window, variants.export_dir)] if variants.export_dir else []
    scorers += served
    require_names(scorers)
    progress = Progress(f"evaluating {len(scorers)} models", len(scorers) * truth.num_users, "users")
    chunk = max(16, min(_CHUNK, _MAX_SCORES // corpus.num_items))
    first = (served or scorers)[0].name  # what requests get, where an export is asked
    with writing_lists(variants.lists_path, first, window.log.user_id, corpus.item_id) as on_lists:
        evaluations = evaluate_many(scorers, truth, corpus.category_offset, KS, chunk, progress.update, on_lists)
    progress.close()
    evaluations = average_draws(evaluations, list(retrievals), variants.draw_seeds)
    if users_path:
        _write_users(users_path, evaluations, truth, window, meters)
    evaluations = {one.name: evaluations[one.name] for one in served} | evaluations  # what requests get stands first
    return {
        **_header(config, split, truth),
        **({"max_users": max_users} if max_users else {}),
        **({"statistics_as_of": served[0].statistics_as_of} if served else {}),
        "baseline_settings": chosen,
        **report_lists(lists, evaluations),
        "models": {name: evaluation.summary() for name, evaluation in evaluations.items()},
        "differences": differences_to_best(evaluations, truth, {rival.name for rival in rivals}, COLUMNS),
    }


def _write_users(
    path: str,
    evaluations: dict[str, Evaluation],
    truth: Truth,
    window: OpenWindow,
    meters: list[CalibrationMeter],
) -> None:
    table = tabulate_users(evaluations, truth, window.encoded, window.corpus.category_offset, window.as_of)
    for meter in meters:
        table |= {"calibration": meter.tally, "interest_calibration": meter.interest_tally}
    write_users(path, table)


def _header(config: Config, split: str, truth: Truth) -> dict[str, Any]:
    return {
        **describe_origin(_PROGRAM, config.train.seed),
        "split": split,
        "data": config.data.dataset,
        "cut": config.train.cut,
        "num_users": truth.num_users,
        "num_pairs": truth.num_pairs,
        "config": dataclasses.asdict(config),
    }


def make_served(config: Config, window: OpenWindow, export_dir: str) -> ServedScorer:
    """The scorer that asks an export of the run.

    Raises:
      UserError: there is no export, or it is one of another run.
    """
    models = load_models(config, window.corpus, window.arrays["item_svd"])
    towers = fingerprint_towers(config, window.corpus, models, window.arrays)
    scorer = ServedScorer(export_dir, towers, window.corpus, window.log, window.as_of)
    if note := note_of_leak(export_dir, scorer.statistics_as_of, window.as_of):
        print(note, flush=True)
    return scorer


def note_of_leak(export_dir: str, counted_until: int, as_of: int) -> str:
    """What to say of an export that was refreshed by events of the window that it is asked about; "" of others.

    >>> note_of_leak("exports/mine", 1_800, 3_600)
    ''
    >>> note_of_leak("exports/mine", 3_600 + 7_200, 3_600)[:71]
    'note: --export_dir=exports/mine counts 2.0 hours of the window that it '
    """
    if counted_until <= as_of:
        return ""
    return (
        f"note: --export_dir={export_dir} counts {(counted_until - as_of) / 3600:.1f} hours of the window that it is "
        "asked about among its statistics, so its metrics are too good: evaluate a version of before, or a later window"
    )


def _retrieval_variants(config: Config, group: str) -> dict[str, RetrievalConfig]:
    if not group:
        return {}
    if config.model.model != LONGRETRIEVER:
        raise UserError(
            f"--variants={group}: {config.train.run_dir!r} is a run of --model={config.model.model}, which has no "
            "interests to choose or merge; leave --variants out"
        )
    return variants_of(group, config.retrieval)


def _scorers_of_run(
    config: Config, window: OpenWindow, retrievals: dict[str, RetrievalConfig], draw_seeds: int
) -> list[Scorer]:
    """The run's own scorers, and those of the variants."""
    scorers = make_scorers(config, window.prepare())
    if isinstance(scorers[0], LongRetrieverScorer):
        scorers += ask_variants(scorers[0], retrievals, draw_seeds)
    return scorers


def make_scorers(config: Config, prepared: Prepared) -> list[Scorer]:
    """The trained run's own scorers, whichever model it is of.

    Args:
      config: of the run.
      prepared: the log before the time of the requests, under the run's corpus (`prepare_requests`).

    Raises:
      UserError: the run has not finished.
    """
    if config.model.model != LONGRETRIEVER:
        model = load_baseline(config, prepared.corpus, prepared.item_svd)
        return [RecentScorer(config, prepared, model)]
    models = load_models(config, prepared.corpus, prepared.item_svd)
    ours = LongRetrieverScorer(config, prepared, models.retriever, models.interest, config.retrieval)
    return _ask(ours, config.retrieval)


def _ask(ours: LongRetrieverScorer, retrieval: RetrievalConfig) -> list[Scorer]:
    """The run as its own requests are answered, at its best (every category searched), and as the paper's requests."""
    name = "longretriever, as served"
    paper = dataclasses.replace(PAPER_SERVING, search=retrieval.search)
    if retrieval.search == "corpus":
        return [
            ours.with_retrieval(f"{name}, whole corpus", retrieval),
            ours.with_retrieval("longretriever, paper serving, whole corpus", paper),
        ]
    return [ours.with_retrieval(name, retrieval), ours, ours.with_retrieval("longretriever, paper serving", paper)]
