import json

import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.evaluation.table import text_table, write_json

METRICS = {
    "data": "toy",
    "split": "test",
    "seed": 7,
    "command": "evaluate --x",
    "date": "2031-02-03",
    "models": {
        "popularity": {"all": {"recall@100": 0.25, "ndcg@100": 0.125}, "novel": {"recall@100": 0.0625}},
        "LongRetriever": {"all": {"recall@100": 1.0}, "novel": {}, "within_category": {"recall@20": 0.61239}},
    },
}
COLUMNS = (("all", "recall@100"), ("all", "ndcg@100"), ("novel", "recall@100"), ("within_category", "recall@20"))


def test_text_table_is_this():
    assert text_table(METRICS, COLUMNS) == (
        "data: toy\n"
        "split: test\n"
        "seed: 7\n"
        "command: evaluate --x\n"
        "date: 2031-02-03\n"
        "\n"
        "               all                   novel       within\n"
        "model          recall@100  ndcg@100  recall@100  recall@20\n"
        "popularity         0.2500    0.1250      0.0625          -\n"
        "LongRetriever      1.0000         -           -     0.6124\n"
    )


def test_write_json_round_trip_and_refusals(tmp_path):
    path = tmp_path / "deep" / "metrics.json"
    write_json(str(path), METRICS)
    assert json.loads(path.read_text()) == METRICS
    with pytest.raises(UserError, match="without split, date"):
        write_json(str(path), {key: value for key, value in METRICS.items() if key not in ("split", "date")})
    with pytest.raises(ValueError, match="JSON"):
        write_json(str(path), METRICS | {"models": {"x": {"all": {"recall@100": float("nan")}}}})
    assert json.loads(path.read_text()) == METRICS
