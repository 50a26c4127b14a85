"""The explorer page alongside the REST API: static files, sample histories, and the names of items.

The page itself asks the REST API alone (`:predict`, metadata, status). What this module adds is help that it can do
without: `settings.json`, the models there are, which TensorFlow Serving's API does not tell; `models/NAME/users.json`,
histories to choose from; and `models/NAME/names`, readable names of item ids from the export's own corpus, and which of
them several items share.
"""

import json
import os
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from longretriever_tf.common import schema
from longretriever_tf.common.text import as_text
from longretriever_tf.data.corpus import load_corpus
from longretriever_tf.serving.explorer.users import read_users, warmup_users
from longretriever_tf.serving.server.json_replies import write_error
from longretriever_tf.serving.server.json_requests import parse_object
from longretriever_tf.serving.server.manager import ModelManager
from longretriever_tf.serving.server.rest import JSON, Handle, Reply
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid

ROOT = "/explorer/"
_MAX_ASKED = 100_000
_FILES = os.path.dirname(__file__)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # The browser itself sees to it that the page reaches nothing but this server.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def explorer_over(users_file: str = "") -> Callable[[ModelManager, Handle], Handle]:
    """What `ModelServer` takes to serve the page alongside its REST API.

    Args:
      users_file: of the histories that the page offers; "": made-up ones, from the export's warm-up requests.

    Raises:
      UserError: the file cannot be read, or is of another form.
    """
    users = read_users(users_file) if users_file else None
    return lambda manager, handle: ExplorerPage(manager, users, handle).handle


class _Names(NamedTuple):
    """Names of one export's items, where they say more than the id.

    Attributes:
      version_dir: of the export.
      of_item: name by id as text.
      shared: the names that several items have: the page shows the id with them.
    """

    version_dir: str
    of_item: dict[str, str]
    shared: frozenset[str]


_NO_NAMES = _Names("", {}, frozenset())


class ExplorerPage:
    """Answers what lies under `/explorer/`, and hands everything else on; thread-safe."""

    def __init__(self, manager: ModelManager, users: bytes | None, handle: Handle) -> None:
        """Reads the page's files once.

        Args:
          manager: of the models that the page may ask.
          users: a checked users file; None: the warm-up requests of the model asked about.
          handle: answers all other paths.
        """
        self._manager, self._users, self._handle = manager, users, handle
        self._lock = threading.Lock()
        self._names = _NO_NAMES
        self._files = {name: _read(name) for name in os.listdir(_FILES) if os.path.splitext(name)[1] in _TYPES}

    def handle(self, method: str, path: str, body: bytes) -> Reply:
        """Answers one request; never raises."""
        if path in ("/", ROOT[:-1]):
            return Reply(302, b"", "text/plain", {"Location": ROOT})
        if not path.startswith(ROOT):
            return self._handle(method, path, body)
        name = path.removeprefix(ROOT)
        try:
            return self._answer(method, name or "index.html", body)
        except ServingError as error:
            return Reply(400, write_error(f"{path}: {error}"), JSON, _HEADERS)
        except Exception as error:  # a corpus that cannot be read must not end the page
            return Reply(500, write_error(f"{path}: {from_exception(error)}"), JSON, _HEADERS)

    def _answer(self, method: str, name: str, body: bytes) -> Reply:
        if method == "GET" and name in self._files:
            return Reply(200, self._files[name], _TYPES[os.path.splitext(name)[1]], _HEADERS)
        if method == "GET" and name == "settings.json":
            return _json({"models": self._manager.model_names()})
        model, _, what = name.removeprefix("models/").rpartition("/")
        if name.startswith("models/") and (method, what) == ("GET", "users.json"):
            return Reply(200, self._users or warmup_users(self._version_dir(model)), JSON, _HEADERS)
        if name.startswith("models/") and (method, what) == ("POST", "names"):
            names = self._names_in(self._version_dir(model))
            known = {item: names.of_item[item] for item in _asked(body) if item in names.of_item}
            return _json({"names": known, "shared": [item for item, name in known.items() if name in names.shared]})
        return Reply(404, write_error(f"no such path: {ROOT}{name}; the page is at {ROOT}"), JSON, _HEADERS)

    def _version_dir(self, quoted_name: str) -> str:
        with self._manager.servable(urllib.parse.unquote(quoted_name)) as model:
            return model.path

    def _names_in(self, version_dir: str) -> _Names:
        """Those of the last version asked are kept."""
        with self._lock:
            if self._names.version_dir != version_dir:
                self._names = _read_names(version_dir)
            return self._names


def _asked(body: bytes) -> list[str]:
    """The ids that the page wants names of."""
    items = parse_object(body).get("item_id")
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        raise invalid('expected {"item_id": [...]}, a list of ids')
    if len(items) > _MAX_ASKED:
        raise invalid(f"names of {len(items)} items were asked for; ask for at most {_MAX_ASKED} at once")
    return [str(item) for item in items]


def _read_names(version_dir: str) -> _Names:
    path = os.path.join(version_dir, "assets.extra", "corpus.npz")
    if not os.path.exists(path):  # an export of another kind
        return _NO_NAMES._replace(version_dir=version_dir)
    corpus = load_corpus(path)
    known = slice(schema.FIRST_KNOWN, None)
    ids, names = as_text(corpus.item_id[known]).tolist(), corpus.item_name[known].tolist()
    times = Counter(names)
    return _Names(
        version_dir,
        {item: name for item, name in zip(ids, names, strict=True) if name and name != item},
        frozenset(name for name, number in times.items() if number > 1),
    )


def _read(name: str) -> bytes:
    with open(os.path.join(_FILES, name), "rb") as file:
        return file.read()


def _json(document: Any) -> Reply:
    return Reply(200, json.dumps(document).encode(), JSON, _HEADERS)
