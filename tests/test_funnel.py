import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from small_histories import NUM_ITEMS, encode, random_histories
from trained import run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import to_json
from longretriever_tf.evaluation.funnel.channel_spec import parse_channel
from longretriever_tf.evaluation.funnel.channels import COUNTS, RATIOS
from longretriever_tf.evaluation.funnel.exposure import FunnelConfig, FunnelRow, FunnelWindow, run_funnel
from longretriever_tf.evaluation.funnel.paper_directions import HOLDS, REVERSED
from longretriever_tf.evaluation.funnel.ranker import RankerConfig
from longretriever_tf.evaluation.funnel.text import markdown_report, stand_json, text_report
from longretriever_tf.evaluation.ground_truth import build_truth
from longretriever_tf.evaluation.ranking import Interval

K = 6
RANKER = RankerConfig(max_rounds=20, num_leaves=4, min_leaf=5, num_threads=1)


def window(seed: int) -> FunnelWindow:
    """A window whose one feature says whether the user will take the item: the ranker cannot but find it.

    `oracle` retrieves what the user takes and then others, `chance` and `noise` anything, `twin` what `oracle` does.
    """
    random = np.random.default_rng(seed)
    truth = build_truth(encode(random_histories(seed, 67)), NUM_ITEMS, 70, (70, 90))
    pairs = set(zip(truth.users[truth.pair_row()].tolist(), truth.item.tolist(), strict=True))

    def features(user: np.ndarray, item: np.ndarray) -> np.ndarray:
        is_taken = [pair in pairs for pair in zip(user.tolist(), item.tolist(), strict=True)]
        return np.array([is_taken, random.random(len(user))], np.float32).T

    lists = {name: np.full((truth.num_users, K), -1) for name in ("oracle", "chance", "noise")}
    for u in range(truth.num_users):
        taken = truth.item[truth.offset[u] : truth.offset[u + 1]][: K - 1]
        rest = random.permutation(np.setdiff1d(np.arange(2, NUM_ITEMS), taken))
        lists["oracle"][u] = np.append(taken, rest)[:K]
        for name in ("chance", "noise"):
            lists[name][u] = random.permutation(np.arange(2, NUM_ITEMS))[:K]
    lists["twin"] = lists["oracle"][:, ::-1].copy()
    return FunnelWindow(truth, lists, features, ("will", "chance"))


@pytest.fixture(scope="module")
def made() -> tuple[FunnelWindow, dict[str, dict[str, FunnelRow]]]:
    config = FunnelConfig(k=K, num_exposed=4, resamplings=50, ranker=RANKER)
    stands = {"open": ["noise"], "crowded": ["noise", "oracle"]}
    evaluated = window(11)
    return evaluated, run_funnel(window(8), evaluated, stands, ["oracle", "chance", "twin"], config)


def test_the_channel_that_knows_is_exposed_and_converts(made):
    rows = made[1]["open"]
    oracle, chance = rows["oracle"].metrics, rows["chance"].metrics
    assert oracle["aer"].mean > chance["aer"].mean and oracle["conversion"].mean > chance["conversion"].mean
    difference = rows["oracle"].differences["chance"]["aer"]
    assert difference.mean == pytest.approx(oracle["aer"].mean - chance["aer"].mean)
    assert 0 < difference.low <= difference.mean <= difference.high
    assert rows["twin"].metrics == oracle and rows["twin"].differences["oracle"]["uer"] == Interval(0.0, 0.0, 0.0)


def test_counts_against_a_plain_loop(made):
    evaluated, stands = made
    lists, truth = evaluated.lists, evaluated.truth
    exposed = retrieved = unique = 0
    for u in range(truth.num_users):
        taken = set(truth.item[truth.offset[u] : truth.offset[u + 1]].tolist())
        mine, other = set(lists["oracle"][u].tolist()), set(lists["noise"][u].tolist())
        shown_taken = (mine | other) & taken  # at the top, since the feature says so: all of them, if they fit
        if len(shown_taken) > 4:
            continue
        retrieved += len(mine)
        exposed += len(mine & taken)
        unique += len((mine - other) & taken)
    counts = stands["open"]["oracle"].counts
    assert counts["retrieved"] == K * truth.num_users and counts["page"] == 4 * truth.num_users
    assert counts["exposed"] >= exposed > 0 and counts["unique_exposed"] >= unique > 0
    assert counts["converted"] >= exposed and counts["unique_converted"] >= unique


def test_beside_its_twin_a_channel_is_unique_in_nothing_and_never_its_own_rival(made):
    rows = made[1]["crowded"]
    assert rows["twin"].metrics["uer"].mean == 0.0 and rows["twin"].metrics["conversion"] is None
    assert rows["oracle"].metrics["uer"].mean > 0.0  # it stands next to the noise alone


def fake_row(values: dict[str, float], against: dict[str, dict[str, float]]) -> FunnelRow:
    """A row whose metrics are `values` and whose differences are exact."""
    metrics = {name: Interval(values.get(name, 0.1), 0.0, 0.5) for name in RATIOS}
    differences = {
        other: {name: Interval(gap, gap - 1e-3, gap + 1e-3) for name, gap in gaps.items()}
        for other, gaps in against.items()
    }
    return FunnelRow(metrics, {}, dict.fromkeys(COUNTS, 1), differences)


@pytest.mark.parametrize(("gap", "verdict"), [(0.07, HOLDS), (-0.07, REVERSED)])
def test_report_states_what_the_numbers_say(gap, verdict):
    rows = {
        "longretriever": fake_row({"aer": 0.2}, {}),
        "top5": fake_row({"aer": 0.2 + gap, "owned_share": 0.625}, {"longretriever": {"aer": gap}}),
    }
    rows["top5"].metrics["conversion"] = None
    stand = stand_json(rows, ["popularity"])
    header = {"data": "d", "split": "test", "seed": 1, "command": "c", "date": "today", "protocol": "How."}
    report = json.loads(json.dumps({**header, "stands": {"bare": stand}}, allow_nan=False))
    assert report["stands"]["bare"]["verdicts"][verdict] == 1
    for text in (text_report(report), markdown_report(report)):
        assert f"{100 * (0.2 + gap):.2f}%" in text and "62.5% against 10.0%" in text
        assert f"paper +11.71, here {100 * gap:+.2f}" in text
        assert "12 directions 1 were measured" in text and "MIND, AER: paper -13.10, here none" in text
    top5 = next(line for line in markdown_report(report).splitlines() if line.startswith("| Top5"))
    assert " | - | 8.29% |" in top5  # nothing was uniquely exposed: no conversion, and not a conversion of 0


def test_the_command_over_a_trained_run(trained, tmp_path):
    """Rows of one run, and a second run of the same kind alongside, through the real models."""
    output = str(tmp_path / "funnel.json")
    done = run_module(
        "funnel",
        *(f"--run_dir={trained.run_dir}", f"--output={output}", "--k=12", "--num_exposed=6", "--resamplings=20"),
        f"--channel_run=again={trained.run_dir}:every_category=true,merge=calibrated",
        f"--channel_run=plain={trained.run_dir}",
        "--channels=popularity,plain",
    )
    assert done.returncode == 0, done.stderr
    with open(output, encoding="utf-8") as file:
        report = json.load(file)
    assert list(report["stands"]) == ["without own items", "with own items"]
    rows = report["stands"]["with own items"]["rows"]
    assert list(rows) == ["longretriever", "top5", "every_category", "again"]
    assert rows["again"]["figures"] == rows["every_category"]["figures"]
    assert rows["every_category"]["counts"]["retrieved"] == 12 * report["num_users"]["test"]
    output = done.stdout
    assert "Top5 - LongRetriever, random 5 of top 20, AER: paper +11.71, here" in output and "funnel.md" in output
    with open(tmp_path / "funnel.md", encoding="utf-8") as file:
        assert "| LongRetriever, calibrated, every category |" in file.read()


@pytest.fixture
def evaluate(trained):
    from longretriever_tf.evaluation.funnel.run_funnel import FunnelSetup, evaluate_funnel

    def run(*channels: str, others: tuple[str, ...] = ("popularity",), own_items: str = "both", config=trained.config):
        return evaluate_funnel(
            config, FunnelSetup(tuple(map(parse_channel, channels)), others, own_items), FunnelConfig()
        )

    return run


def test_a_run_that_saw_the_validation_window_is_refused(trained, evaluate, tmp_path):
    later = shutil.copytree(trained.run_dir, tmp_path / "later")
    with np.load(later / "corpus.npz") as stored:
        arrays = dict(stored)
    np.savez(later / "corpus.npz", **{**arrays, "cut": arrays["cut"] + 1})
    train = dataclasses.replace(trained.config.train, cut="test")
    (later / "config.json").write_text(to_json(dataclasses.replace(trained.config, train=train)))
    with pytest.raises(UserError, match=r"later.*--cut=test.*--cut=validation"):
        evaluate(f"mind={later}")


def test_a_run_of_another_log_is_refused(trained, evaluate, tmp_path):
    os.makedirs(tmp_path / "other")
    data = dataclasses.replace(trained.config.data, window_days=9.0)
    (tmp_path / "other" / "config.json").write_text(to_json(dataclasses.replace(trained.config, data=data)))
    with pytest.raises(UserError, match=r"other.*another log.*--window_days=9.0.*14.0"):
        evaluate(f"mind={tmp_path / 'other'}")


def test_settings_for_a_model_without_interests_are_refused(trained, monkeypatch):
    from longretriever_tf.data.batches.prepared_data import load_split
    from longretriever_tf.evaluation.funnel import run_channels

    class OneVector:
        name = "one vector"

        def score(self, users: np.ndarray) -> np.ndarray:
            return np.zeros((len(users), NUM_ITEMS), np.float32)

    log, cuts = load_split(trained.config)
    run = run_channels.load_channel_run(trained.run_dir, trained.config, cuts)
    monkeypatch.setattr(run_channels, "make_scorers", lambda config, prepared: [OneVector()])
    plain = run_channels.run_scorers(run, log, cuts.test_start, [parse_channel("mind=r")])
    assert [scorer.name for scorer in plain] == ["mind"] and plain[0].score(np.array([0])).shape == (1, NUM_ITEMS)
    with pytest.raises(UserError, match="'mind'.*merge"):
        run_channels.run_scorers(run, log, cuts.test_start, [parse_channel("mind=r:merge=raw")])


@pytest.mark.parametrize(
    ("channels", "others", "own_items", "words"),
    [
        ((), ("ease",), "both", ("'ease'", "popularity", "--channel_run=ease=RUN_DIR")),
        (("top5=r",), ("popularity",), "both", ("'top5'", "name of its own")),
        (("mind=a", "mind=b"), ("popularity",), "both", ("'mind'",)),
        (("popularity=r",), ("popularity",), "both", ("'popularity'",)),
        ((), (), "both", ("own_items", "unique")),
        (("mind=nowhere",), ("popularity",), "with", ("nowhere", "longretriever train")),
        (("mind=r:depth=2",), ("popularity",), "with", ("'mind'", "'depth'")),
    ],
)
def test_mistakes_are_reported_before_the_work(evaluate, channels, others, own_items, words):
    with pytest.raises(UserError) as error:
        evaluate(*channels, others=others, own_items=own_items)
    for word in words:
        assert word in str(error.value)
