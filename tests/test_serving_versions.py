"""Versions: policies, labels, hot swap without a failed request, broken directories, retries, warm-up."""

import json
import os
import shutil
import threading
import time
import types

import pytest
from serving_clients import call, error_of, predict, serving, states, wait_until
from serving_conformance import conforms
from toy_models import Hold, save_answer, save_toy

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server import config_files, manager
from longretriever_tf.serving.server.metrics import Metrics

pytestmark = pytest.mark.serving
X = {"instances": [1.0]}


def _break(base, version: int, *, pb: bytes | None = b"\xff broken") -> str:
    """A version directory whose saved_model.pb is broken, or missing."""
    path = os.path.join(base, str(version))
    os.makedirs(os.path.join(path, "variables"))
    if pb is not None:
        with open(os.path.join(path, "saved_model.pb"), "wb") as file:
            file.write(pb)
    return path


def _status(server, version: int) -> dict:
    _, reply = call(server, "GET", f"/v1/models/toy/versions/{version}")
    return json.loads(reply)["model_version_status"][0]


@conforms("version directories", "children whose whole name is a number; hidden and half-named ones are not looked at")
def test_find_versions(tmp_path):
    for name in ("1", "007", "7", "12", ".13.aside", "14.old", "x", "-3", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "99").write_text("a file")
    found = manager.find_versions(str(tmp_path))
    assert {number: os.path.basename(path) for number, path in found.items()} == {1: "1", 7: "7", 12: "12"}
    assert manager.find_versions(str(tmp_path / "none")) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [12]),
        ("model_version_policy { latest { num_versions: 2 } }", [12, 7]),
        ("model_version_policy { all {} }", [12, 7, 1]),
        ("model_version_policy { specific { versions: 1 versions: 12 versions: 99 } }", [12, 1]),
    ],
)
@conforms("version policy", "latest N (1 where unset), all, or specific; versions that are not on disk are skipped")
def test_policies(tmp_path, text, expected):
    path = tmp_path / "models.config"
    path.write_text(
        f'model_config_list {{ config {{ name: "toy" base_path: "/m" model_platform: "tensorflow" {text} }} }}'
    )
    policy = config_files.read_models(str(path)).model_config_list.config[0].model_version_policy
    assert manager.aspired_versions({1: "", 7: "", 12: ""}, policy) == expected


@conforms("a new version appears", "loaded alongside the old one, then takes over; the old one ends")
def test_new_version_takes_over(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path)) as server:
        assert predict(server, X) == {"predictions": [1]}
        save_answer(tmp_path, 2)
        wait_until(lambda: states(server) == {2: "AVAILABLE", 1: "END"})
        assert predict(server, X) == {"predictions": [2]}
        assert error_of(server, X, "/v1/models/toy/versions/1:predict")[0] == 404


@conforms("the newest version's directory is removed", "the newest remaining one is loaded again")
def test_roll_back(tmp_path):
    save_answer(tmp_path, 1)
    save_answer(tmp_path, 2)
    with serving(str(tmp_path)) as server:
        assert states(server) == {2: "AVAILABLE"}
        shutil.rmtree(tmp_path / "2")
        wait_until(lambda: states(server) == {2: "END", 1: "AVAILABLE"})
        assert predict(server, X) == {"predictions": [1]}
        shutil.rmtree(tmp_path / "1")
        time.sleep(0.3)
        assert predict(server, X) == {"predictions": [1]}, "the last version stays"


@conforms("hot swap under load: new versions, then a broken one", "no request fails")
def test_hot_swap_under_load(tmp_path):
    save_answer(tmp_path, 1)
    answers: list[tuple[int, object]] = []
    stop = threading.Event()
    with serving(str(tmp_path)) as server:

        def ask() -> None:
            while not stop.is_set():
                status, reply = call(server, "POST", "/v1/models/toy:predict", X)
                answers.append((status, json.loads(reply).get("predictions")))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for version in (1, 2, 3, 4):
            if version > 1:
                save_answer(tmp_path, version)
            wait_until(lambda version=version: (200, [version]) in answers)
        _break(tmp_path, 5)
        wait_until(lambda: states(server).get(5) == "END")
        before = len(answers)
        wait_until(lambda: len(answers) > before + len(threads))  # asked when version 5 was given up already
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in answers} == {200}
    assert {reply[0] for _, reply in answers} == {1, 2, 3, 4} and answers[-1] == (200, [4])


@conforms("requests in flight at a swap", "finish on the version that they began with")
def test_requests_in_flight_finish_on_the_old_version(tmp_path):
    save_toy(tmp_path, 1)
    (tmp_path / "aside").mkdir()
    newer = save_toy(tmp_path / "aside", 2)
    with serving(str(tmp_path)) as server:
        replies: list[dict] = []
        hold = Hold(tmp_path)
        thread = threading.Thread(target=lambda: replies.append(predict(server, hold.body)))
        thread.start()
        try:
            wait_until(hold.has_begun)
            os.rename(newer, tmp_path / "2")
            wait_until(lambda: states(server) == {2: "AVAILABLE", 1: "END"})
            assert thread.is_alive()
        finally:
            hold.let_go()
            thread.join()
        assert replies == [{"predictions": [{"version": 1, "found": 1}]}]
        assert predict(server, hold.body) == {"predictions": [{"version": 2, "found": 1}]}


@conforms("a corrupt version alongside a good one", "the good one serves; END with error_code and error_message")
def test_corrupt_version(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path)) as server:
        _break(tmp_path, 2)
        wait_until(lambda: states(server).get(2) == "END")
        status = _status(server, 2)["status"]
        assert status["error_code"] == "DATA_LOSS"
        assert "cannot parse" in status["error_message"]
        assert states(server)[1] == "AVAILABLE" and predict(server, X) == {"predictions": [1]}
        assert call(server, "GET", "/v1/models/toy/versions/2/metadata")[0] == 404


@conforms("a half-copied version", "NOT_FOUND while saved_model.pb is missing; served once the copy is whole")
def test_half_copied_version(tmp_path):
    save_answer(tmp_path, 1)
    whole = tmp_path / "elsewhere"
    whole.mkdir()
    save_answer(whole, 2)
    with serving(str(tmp_path)) as server:
        (tmp_path / "2").mkdir()
        shutil.copytree(whole / "2" / "variables", tmp_path / "2" / "variables")
        wait_until(lambda: states(server).get(2) == "END")
        status = _status(server, 2)["status"]
        assert status["error_code"] == "NOT_FOUND"
        assert "saved_model.pb does not exist" in status["error_message"]
        assert predict(server, X) == {"predictions": [1]}
        shutil.copy(whole / "2" / "saved_model.pb", tmp_path / "2")
        wait_until(lambda: states(server) == {2: "AVAILABLE", 1: "END"})
        assert predict(server, X) == {"predictions": [2]}


@conforms("a version whose variables are cut short", "END with an error, the good one serves")
def test_truncated_variables(tmp_path):
    save_answer(tmp_path, 1)
    aside = tmp_path / "elsewhere"
    aside.mkdir()
    path = save_answer(aside, 2)
    data = os.path.join(path, "variables", "variables.data-00000-of-00001")
    os.truncate(data, 3)
    with serving(str(tmp_path)) as server:
        os.rename(path, tmp_path / "2")
        wait_until(lambda: states(server).get(2) == "END")
        assert _status(server, 2)["status"]["error_code"] in ("DATA_LOSS", "OUT_OF_RANGE")
        assert predict(server, X) == {"predictions": [1]}


@conforms("every version broken at startup", "the server does not start and says why")
def test_all_broken_at_startup(tmp_path):
    _break(tmp_path, 3, pb=None)
    with pytest.raises(UserError, match="model toy: NOT_FOUND: .*saved_model.pb does not exist"):
        serving(str(tmp_path)).__enter__()


@conforms("no version at startup", "the server waits for one before it opens its ports")
def test_waits_for_the_first_version(tmp_path):
    timer = threading.Timer(0.4, save_answer, (tmp_path, 1))
    timer.start()
    with serving(str(tmp_path)) as server:
        assert predict(server, X) == {"predictions": [1]}


@conforms(
    "--model_config_file_poll_wait_seconds",
    "the file is read again: labels move without a restart; a wrong file changes nothing",
)
def test_config_file_is_polled(tmp_path):
    for version in (1, 2):
        save_answer(tmp_path, version)
    path = tmp_path / "models.config"

    def write(label_version: int) -> None:
        path.write_text(
            f'model_config_list {{ config {{ name: "toy" base_path: "{tmp_path}" model_platform: "tensorflow" '
            f'model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: {label_version} }} }} }}'
        )

    write(1)
    config = config_files.read_models(str(path))
    by_label = "/v1/models/toy/labels/stable:predict"
    with serving(config, model_config_file=str(path), model_config_file_poll_wait_seconds=0.05) as server:
        assert predict(server, X, by_label) == {"predictions": [1]}
        path.write_text("model_config_list { nonsense }")
        time.sleep(0.2)
        assert predict(server, X, by_label) == {"predictions": [1]}
        write(2)
        wait_until(lambda: predict(server, X, by_label) == {"predictions": [2]})


@conforms("a label's version is not available yet, or its directory is gone", "the label names the version before it")
def test_labels_always_answer(tmp_path):
    """A canary that still loads, a rollback that puts directories aside before servers read the labels again."""
    for version in (1, 2, 3):
        save_answer(tmp_path, version)
    os.rename(tmp_path / "3", tmp_path / "three")
    models = manager.ModelManager(Metrics())

    def answer(label: str) -> int:
        with models.servable("toy", label=label) as model:
            return model.version

    def configure(stable: int, canary: int) -> None:
        config = config_files.one_model("toy", str(tmp_path))
        config.model_config_list.config[0].model_version_policy.all.SetInParent()
        config.model_config_list.config[0].version_labels.update({"stable": stable, "canary": canary})
        models.configure(config)

    configure(1, 2)
    models.poll()
    configure(2, 3)
    assert (answer("stable"), answer("canary")) == (2, 2), "version 3 is not loaded yet"
    os.rename(tmp_path / "three", tmp_path / "3")
    models.poll()
    assert (answer("stable"), answer("canary")) == (2, 3)
    os.rename(tmp_path / "3", tmp_path / "three")
    models.poll()
    assert answer("canary") == 3, "the label has not moved yet"
    configure(2, 2)
    assert answer("canary") == 2
    models.poll()
    assert {one.version: one.state for one in models.status("toy")} == {3: "END", 2: "AVAILABLE", 1: "AVAILABLE"}
    configure(1, 7)
    models.poll()
    assert (answer("stable"), answer("canary")) == (1, 2)
    models.close()


@conforms(
    "assets.extra/tf_serving_warmup_requests",
    "replayed before the version is served; a failing one keeps it from being served",
)
def test_warm_up(tmp_path):
    save_answer(tmp_path, 1, warmup=1.0)
    with serving(str(tmp_path)) as server:
        path = save_answer(tmp_path / "..", 99)
        from toy_models import write_warmup

        write_warmup(path, "misnamed", [1.0])
        os.rename(path, tmp_path / "2")
        wait_until(lambda: states(server).get(2) == "END")
        assert _status(server, 2)["status"]["error_code"] == "INVALID_ARGUMENT"
        assert predict(server, X) == {"predictions": [1]}


@conforms("a version that failed", "is tried again after a second, then two, four, up to a minute")
def test_a_failed_version_is_tried_again(tmp_path, monkeypatch):
    clock, attempts = [0.0], []

    def load(name: str, version: int, path: str) -> None:
        attempts.append(clock[0])
        raise ValueError("broken")

    _break(tmp_path, 2)
    monkeypatch.setattr(manager, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    models = manager.ModelManager(Metrics(), load)
    models.configure(config_files.one_model("toy", str(tmp_path)))
    for second in range(200):
        clock[0] = second
        models.poll()
    assert attempts == [0, 1, 3, 7, 15, 31, 63, 123, 183]


@conforms("two models", "each under its own name")
def test_two_models(tmp_path):
    config = config_files.one_model("a", str(tmp_path / "a"))
    config.model_config_list.config.add(name="b", base_path=str(tmp_path / "b"), model_platform="tensorflow")
    for name, version in (("a", 1), ("b", 4)):
        (tmp_path / name).mkdir()
        save_answer(tmp_path / name, version)
    with serving(config) as server:
        assert predict(server, X, "/v1/models/a:predict") == {"predictions": [1]}
        assert predict(server, X, "/v1/models/b:predict") == {"predictions": [4]}


@conforms("a models.config that lists other models", "new models load, models no longer listed unload")
def test_models_come_and_go_with_the_config_file(tmp_path):
    for name, version in (("a", 1), ("b", 5)):
        (tmp_path / name).mkdir()
        save_answer(tmp_path / name, version)
    path = tmp_path / "models.config"
    path.write_text(f'model_config_list {{ config {{ name: "a" base_path: "{tmp_path}/a" }} }}')
    config = config_files.read_models(str(path))
    with serving(config, model_config_file=str(path), model_config_file_poll_wait_seconds=0.05) as server:
        path.write_text(f'model_config_list {{ config {{ name: "b" base_path: "{tmp_path}/b" }} }}')
        wait_until(lambda: call(server, "GET", "/v1/models/b")[0] == 200 and states(server, "b") == {5: "AVAILABLE"})
        wait_until(lambda: states(server, "a") == {1: "END"})
        assert predict(server, X, "/v1/models/b:predict") == {"predictions": [5]}
        assert call(server, "POST", "/v1/models/a:predict", X)[0] == 404
