"""What every test stands on: fixed seeds, strict floating point, no network, aloud skips."""

import gc
import importlib.util
import os
import pathlib
import random
import socket
import sys

os.environ.setdefault("NO_GCE_CHECK", "true")  # TensorFlow would look for Google's metadata server
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pytest

import longretriever_tf  # noqa: F401 - selects Keras 2 before any test imports TensorFlow

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = int(os.environ.get("LONGRETRIEVER_TEST_SEED", "1"))
_connect = socket.socket.connect
_LONGEST = (
    *("distributed_runs", "notebooks", "served_options", "refresh", "minimal", "id_kinds", "score_weights"),
    *("former_runs", "documents", "kills", "run_dirs", "refresh_daily", "train_on_disk", "warm_start"),
    *("sharded_serving", "api", "operations", "serving_hostile"),
)
"""Modules that begin first, the longest before the others: one that began last would keep one process alone at work."""


def pytest_report_header() -> str:
    return f"seed {SEED} (LONGRETRIEVER_TEST_SEED)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("realdata"):
            item.add_marker("slow")
    first = {f"test_{name}": place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


def pytest_collection_finish() -> None:
    """As in a command (`config.flags.run_command`): what is imported by now stays, and is not looked through again."""
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("scann") and importlib.util.find_spec("scann") is None:
        pytest.skip("scann is not installed (it has Linux wheels only)")


def _connect_here_only(self: socket.socket, address: object) -> None:
    host = address[0] if isinstance(address, tuple) else None
    if host is not None and host not in ("localhost", "::1") and not str(host).startswith("127."):
        raise OSError(f"a test must not need the network, and this one reached for {host}")
    _connect(self, address)  # type: ignore[arg-type]


@pytest.fixture(autouse=True, scope="session")
def no_network():
    socket.socket.connect = _connect_here_only  # type: ignore[method-assign, assignment]
    yield
    socket.socket.connect = _connect  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - libraries that still draw from the global state
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(SEED)


@pytest.fixture(autouse=True)
def strict_floats():
    """NaN, infinity and overflow made by numpy are errors, unless a test says `with np.errstate(...)`."""
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tiny trained run and its export (`trained.Trained`), made once by the real commands."""
    from trained import share_trained

    base = tmp_path_factory.getbasetemp()  # below one folder of the session, where several processes test
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    return share_trained(shared, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session")
def toy_server(tmp_path_factory):
    """A server of the toy model (`toy_models`): versions 1 and 2, labels stable and canary, metrics on."""
    from serving_clients import serving
    from toy_models import save_toy

    from longretriever_tf.serving.server import config_files

    base = str(tmp_path_factory.mktemp("toy"))
    for version in (1, 2):
        save_toy(base, version)
    config = config_files.one_model("toy", base)
    model = config.model_config_list.config[0]
    model.model_version_policy.all.SetInParent()
    model.version_labels.update({"stable": 1, "canary": 2, "next": 9})
    with serving(config, metrics=True, max_history=50) as server:
        yield server


@pytest.fixture
def realdata_dir() -> pathlib.Path:
    """The folder of real logs next to the checkout, or where LONGRETRIEVER_REALDATA points; skips without it."""
    path = pathlib.Path(os.environ.get("LONGRETRIEVER_REALDATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real logs at {path} (set LONGRETRIEVER_REALDATA to their folder)")
    return path
