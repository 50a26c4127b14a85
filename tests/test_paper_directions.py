import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config
from longretriever_tf.evaluation.funnel.channel_spec import longretriever_channels, parse_channel
from longretriever_tf.evaluation.funnel.paper_directions import (
    HOLDS,
    NOT_MEASURED,
    REVERSED,
    UNDECIDED,
    evaluate_directions,
    state_direction,
)
from longretriever_tf.evaluation.ranking import Interval

SIGNS = {
    ("longretriever", "mind"): "-++",
    ("top5", "longretriever"): "+-+",
    ("without_long", "longretriever"): "---",
    ("without_in_context", "longretriever"): "++-",
}
"""AER, UER, conversion of the first against the second, read off the paper's tables by eye."""


def differences(flip: bool = False, wide: bool = False) -> dict:
    made: dict = {}
    for (row, against), signs in SIGNS.items():
        for measure, sign in zip(("aer", "uer", "conversion"), signs, strict=True):
            mean = 0.03 if (sign == "+") != flip else -0.03
            reach = 0.05 if wide else 0.01
            made.setdefault(row, {}).setdefault(against, {})[measure] = Interval(mean, mean - reach, mean + reach)
    return made


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (differences(), HOLDS),
        (differences(flip=True), REVERSED),
        (differences(wide=True), UNDECIDED),
        ({}, NOT_MEASURED),
    ],
)
def test_every_direction_flips_with_the_numbers(given, verdict):
    directions = evaluate_directions(given)
    assert {(d.row, d.against) for d in directions} == set(SIGNS) and len(directions) == 12
    assert {d.verdict for d in directions} == {verdict}
    assert all(state_direction(d).endswith(f": {verdict}") for d in directions)


def test_one_number_changes_one_statement():
    given = differences()
    given["top5"]["longretriever"]["uer"] = Interval(0.02, 0.01, 0.03)
    changed = [d for d in evaluate_directions(given) if d.verdict != HOLDS]
    assert [(d.row, d.measure, d.verdict) for d in changed] == [("top5", "uer", REVERSED)]
    assert "paper -2.06, here +2.00 [+1.00, +3.00] points" in state_direction(changed[0])


def test_a_channel_is_a_run_and_how_it_is_asked():
    spec = parse_channel("a b=runs/x:y:interest=paper,num_interests=5,top_interests=9,day_floor=0.5")
    assert (spec.name, spec.run_dir) == ("a b", "runs/x:y")
    retrieval, every_category = spec.settings(Config())
    assert (retrieval.interest, retrieval.num_interests, retrieval.top_interests) == ("paper", 5, 9)
    assert (retrieval.day_floor, retrieval.merge, every_category) == (0.5, Config().retrieval.merge, False)
    assert parse_channel("m=runs/x:2").run_dir == "runs/x:2"
    assert parse_channel("m=r:every_category=true").settings(Config())[1] is True


def test_rows_of_one_run_are_asked_as_the_paper_asks():
    asked = {spec.name: spec.settings(Config()) for spec in longretriever_channels("r")}
    many = {name: (how.num_interests, how.top_interests, every) for name, (how, every) in asked.items()}
    assert many == {"longretriever": (5, 20, False), "top5": (5, 5, False), "every_category": (0, 20, True)}
    assert parse_channel("without_long=r").settings(Config()) == asked["longretriever"]
    whole, every = parse_channel("without_in_context=r").settings(Config())
    assert (whole.search, whole.merge, whole.num_interests, every) == ("corpus", "round_robin", 5, False)


@pytest.mark.parametrize("text", ["runs/x", "=runs/x", "name=", "name=r:merge=,a=b"])
def test_a_channel_of_another_form_is_told(text):
    with pytest.raises(UserError) as error:
        parse_channel(text)
    assert repr(text) in str(error.value) and "NAME=RUN_DIR" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("depth=3", ("'c'", "'depth'", "num_interests")),
        ("num_interests=many", ("'c'", "num_interests='many'", "int")),
        ("num_interests=30", ("'c'", "--num_interests=30", "N <= M")),
        ("merge=best", ("'c'", "'best'", "round_robin")),
        ("every_category=perhaps", ("'c'", "every_category='perhaps'")),
    ],
)
def test_a_mistaken_setting_is_told_with_its_channel(settings, words):
    with pytest.raises(UserError) as error:
        parse_channel(f"c=runs/x:{settings}").settings(Config())
    for word in words:
        assert word in str(error.value)
