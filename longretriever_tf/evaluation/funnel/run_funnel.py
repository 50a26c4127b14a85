"""The funnel over trained runs: loads them, takes their lists in both windows, and reports AER, UER and conversion."""

import dataclasses
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.progress import Progress
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.common.ranges import offset_of
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import load_split
from longretriever_tf.data.corpus import encode_log
from longretriever_tf.data.recipe.item_svd import fit_item_svd
from longretriever_tf.datasets.log_identity import identify_log
from longretriever_tf.datasets.splits import SPLITS
from longretriever_tf.evaluation.funnel.channel_spec import ChannelSpec, longretriever_channels
from longretriever_tf.evaluation.funnel.exposure import FunnelConfig, FunnelWindow, run_funnel
from longretriever_tf.evaluation.funnel.ranker_features import RankerFeatures
from longretriever_tf.evaluation.funnel.run_channels import (
    COUNTING,
    ChannelRequest,
    counting_lists,
    load_channel_run,
    run_lists,
)
from longretriever_tf.evaluation.funnel.text import stand_json
from longretriever_tf.evaluation.ground_truth import Truth, build_truth

_AFFINITY_DIM = 64  # width of the ranker's co-occurrence vectors

_PROTOCOL = (
    "Each channel retrieves {k} items per user; one ranker, trained on the candidates of all channels in the "
    "validation window, exposes the best {num_exposed} in the test window. AER: exposed share of what the test channel "
    "retrieved. UER: the share that is exposed and that no other channel of the stand retrieved. Conversion: share of "
    "the uniquely exposed items that the user took in the test window. Every run's training data end at the validation "
    "window, as do the vocabularies: items first sold after it are neither retrieved nor in the truth. Lists of the "
    "test window read histories and counts up to its start. Nobody was shown these lists: whether a user would "
    "have taken an item that was not shown is unknown. Brackets: 95% bootstrap over users, ranker held fixed."
)

OWN_ITEMS = "own_items"
_WITHOUT, _WITH = "without own items", "with own items"
STANDS = {"with": (_WITH,), "without": (_WITHOUT,), "both": (_WITHOUT, _WITH)}
"""The stands by the value of --own_items."""


@dataclasses.dataclass(frozen=True)
class FunnelSetup:
    """The channels that take part.

    Attributes:
      specs: runs as channels, in addition to the three rows of the leading run.
      others: names of the stand's other channels: of `COUNTING`, or of `specs`; own_items goes by `own_items`.
      own_items: with, without or both.
      max_users: per window, sampled by the seed; 0: all.
    """

    specs: tuple[ChannelSpec, ...]
    others: tuple[str, ...]
    own_items: str = "both"
    max_users: int = 5000


def evaluate_funnel(config: Config, setup: FunnelSetup, funnel: FunnelConfig) -> dict[str, Any]:
    """The whole of `funnel.json`.

    Args:
      config: of the leading run, a LongRetriever trained with cut=validation.
      setup: the channels.
      funnel: sizes and seed.

    Raises:
      UserError: a channel without a run, twice the same name, a run of another log or one that saw the validation
        window.
    """
    specs, counting = _check_names(config, setup)
    for spec in specs:
        spec.settings(config)  # a wrong setting is an error before the log is read
    log, cuts = load_split(config)
    by_run: dict[str, list[ChannelSpec]] = {}
    for spec in specs:
        by_run.setdefault(spec.run_dir, []).append(spec)
    identity = identify_log(log, config.data)
    runs = {run_dir: load_channel_run(run_dir, config, cuts, identity) for run_dir in by_run}
    corpus = runs[config.train.run_dir].corpus
    encoded = encode_log(log, corpus)
    vectors = fit_item_svd(encoded.before(corpus.cut), corpus, _AFFINITY_DIM, funnel.seed)
    windows = {}
    for split in SPLITS:
        start, stop = cuts.window_of(split)
        truth = build_truth(encoded, corpus.num_items, start, (start, stop))
        truth = sample_users(truth, setup.max_users, funnel.seed)
        progress = Progress(f"channels, {split} window", (len(specs) + len(counting)) * truth.num_users, "users")
        request = ChannelRequest(log, corpus, start, truth.users, funnel.k)
        lists: dict[str, np.ndarray] = {}
        for run_dir, run_specs in by_run.items():  # first, since these may fail
            lists |= run_lists(runs[run_dir], request, run_specs, progress.update)
        lists |= counting_lists(request, counting, progress.update)
        progress.close()
        features = RankerFeatures(encoded, corpus, vectors, start)
        windows[split] = FunnelWindow(truth, lists, features, features.names)
    return _report(config, setup, specs, funnel, windows)


def _check_names(config: Config, setup: FunnelSetup) -> tuple[list[ChannelSpec], list[str]]:
    """The channels of runs, the leading run's own first, and the names of the counting channels."""
    specs = [*longretriever_channels(config.train.run_dir), *setup.specs]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1 or name in COUNTING:
            raise UserError(f"two channels are called {name!r}: give the --channel_run a name of its own")
    given = [spec.name for spec in setup.specs]
    counting = [name for name in setup.others if name not in given]
    for name in counting:
        if name not in COUNTING:
            known = ", ".join([*COUNTING, *given])
            raise UserError(
                f"--channels: {name!r} is unknown; expected some of {known}, or add it: --channel_run={name}=RUN_DIR"
            )
    if setup.own_items != "without" and OWN_ITEMS not in counting:
        counting.append(OWN_ITEMS)
    if not [name for name in setup.others if name != OWN_ITEMS] and setup.own_items != "with":
        raise UserError("--channels names no channel but own_items: without another one every item would be unique")
    return specs, counting


def _report(
    config: Config,
    setup: FunnelSetup,
    specs: list[ChannelSpec],
    funnel: FunnelConfig,
    windows: dict[str, FunnelWindow],
) -> dict[str, Any]:
    others = [name for name in setup.others if name != OWN_ITEMS]
    rows = [spec.name for spec in specs if spec.name not in others]
    stands = {name: [*others, OWN_ITEMS] if name == _WITH else others for name in STANDS[setup.own_items]}
    progress = Progress("ranker and exposures", len(stands) * len(rows), "rows")
    results = run_funnel(windows["validation"], windows["test"], stands, rows, funnel, progress.update)
    progress.close()
    return {
        **describe_origin("longretriever funnel", funnel.seed),
        "split": "test",
        "data": config.data.dataset,
        "protocol": _PROTOCOL.format(k=funnel.k, num_exposed=funnel.num_exposed),
        "num_users": {split: window.truth.num_users for split, window in windows.items()},
        "funnel": dataclasses.asdict(funnel),
        "channels": {spec.name: {"run_dir": spec.run_dir, "asked": spec.overrides} for spec in specs},
        "stands": {name: stand_json(results[name], list(channels)) for name, channels in stands.items()},
    }


def sample_users(truth: Truth, max_users: int, seed: int) -> Truth:
    """At most `max_users` users, drawn without replacement, in the order of `truth.users`; 0: all."""
    if not max_users or truth.num_users <= max_users:
        return truth
    drawn = np.sort(np.random.default_rng(seed).choice(truth.num_users, max_users, replace=False))
    pairs, interacted = np.isin(truth.pair_row(), drawn), np.isin(truth.interacted_row(), drawn)
    return dataclasses.replace(
        truth,
        users=truth.users[drawn],
        offset=offset_of(np.diff(truth.offset)[drawn]),
        item=truth.item[pairs],
        is_novel=truth.is_novel[pairs],
        interacted_offset=offset_of(np.diff(truth.interacted_offset)[drawn]),
        interacted_item=truth.interacted_item[interacted],
    )
