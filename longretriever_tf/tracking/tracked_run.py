"""A run as its trackers see it, over all its sessions; none of them can stop it, by an error or by waiting.

`trackers.json` in the run directory holds the id of the tracked run at each tracker, written before the tracker hears
of it: a run that was killed and goes on, and its evaluations, are one tracked run. What is logged goes through a
thread: a training never waits for a server.
"""

import contextlib
import json
import os
import queue
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from longretriever_tf.common.files import first_line, read_json_object, write_text_atomically
from longretriever_tf.tracking.tracker import RunFacts, Table, Tracker

FILE = "trackers.json"
_CURE = "move it away: the run then goes on as another tracked run"
_MOST_WAITING = 10_000
_PATIENCE_S = 60.0


class TrackedRun:
    """Hands everything to the trackers, one after the other, in a thread of its own; one that fails is left out.

    Args:
      trackers: by name.
      patience_s: how long to wait at the end for what is not delivered.
    """

    def __init__(self, trackers: Mapping[str, Tracker], patience_s: float = _PATIENCE_S) -> None:
        self._trackers, self._patience_s = dict(trackers), patience_s
        self._waiting: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(_MOST_WAITING)
        self._is_full = False
        self._thread = threading.Thread(target=self._deliver, name="trackers", daemon=True)
        if trackers:
            self._thread.start()

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a phase of the training, at a step of its optimizer."""
        kept = {name: float(value) for name, value in metrics.items()}
        self._put(lambda tracker: tracker.log(phase, step, kept))

    def log_results(
        self, group: str, results: Mapping[str, float], table: Table | None = None, files: Sequence[str] = ()
    ) -> None:
        """Results, a table and files of the run's end, or of an evaluation; files that do not exist are left out."""
        present = [path for path in files if os.path.exists(path)]
        self._put(lambda tracker: tracker.log_results(group, results, table, present))

    def finish(self, is_good: bool) -> None:
        """Ends the session at every tracker."""
        if not self._thread.is_alive():
            return
        self._put(lambda tracker: tracker.finish(is_good))
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=self._patience_s)
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            _warn(f"{', '.join(self._trackers)} took longer than {self._patience_s:.0f} s: not everything is delivered")

    def _put(self, call: Callable[[Tracker], None]) -> None:
        if not self._thread.is_alive() or self._is_full:
            return
        try:
            self._waiting.put_nowait(call)
        except queue.Full:
            self._is_full = True
            _warn(f"{', '.join(self._trackers)}: {_MOST_WAITING:,} calls wait for it; what follows is left out")

    def _deliver(self) -> None:
        while (call := self._waiting.get()) is not None:
            for name, tracker in list(self._trackers.items()):
                try:
                    call(tracker)
                except Exception as error:  # whatever a library or its server raises
                    del self._trackers[name]
                    _warn(f"{name} hears no more of this run ({type(error).__name__}: {first_line(error)})")


@contextlib.contextmanager
def track_run(names: Sequence[str], facts: Callable[[], RunFacts], run_dir: str) -> Iterator[TrackedRun]:
    """Opens a run at its trackers for the block; what fails is a warning.

    Args:
      names: of trackers. Those that the run has had before belong to it as well.
      facts: makes what they are told; called only where there is a tracker.
      run_dir: of the run; exists.
    """
    known = read_ids(run_dir)
    named = list(dict.fromkeys([*known, *names]))
    opened = {name: tracker for name in named if (tracker := _open(name, facts, run_dir, known)) is not None}
    run = TrackedRun(opened)
    try:
        yield run
    except BaseException:
        run.finish(is_good=False)
        raise
    run.finish(is_good=True)


def read_ids(run_dir: str) -> dict[str, dict[str, str]]:
    """What trackers.json holds, by tracker.

    Raises:
      UserError: the file is torn.
    """
    path = os.path.join(run_dir, FILE)
    return read_json_object(path, _CURE) if os.path.exists(path) else {}


def _open(name: str, facts: Callable[[], RunFacts], run_dir: str, known: dict[str, dict[str, str]]) -> Tracker | None:
    if name not in known:
        known[name] = {"id": secrets.token_hex(8)}
        _write_ids(run_dir, known)
    try:
        if name == "wandb":
            from longretriever_tf.tracking.wandb_tracker import WandbTracker

            return WandbTracker(facts(), known[name]["id"])
        from longretriever_tf.tracking.mlflow_tracker import MlflowTracker

        uri = "" if os.environ.get("MLFLOW_TRACKING_URI") else known[name].get("uri", "")
        tracker = MlflowTracker(facts(), known[name]["id"], uri)
        if not os.environ.get("MLFLOW_TRACKING_URI") and not set("@?") & set(tracker.uri):  # these may hold a password
            known[name]["uri"] = tracker.uri
            _write_ids(run_dir, known)
        return tracker
    except Exception as error:  # whatever a library or its server raises
        _warn(f"{name} will not hear of this run ({type(error).__name__}: {first_line(error)})")
        return None


def _write_ids(run_dir: str, ids: Mapping[str, Any]) -> None:
    write_text_atomically(os.path.join(run_dir, FILE), json.dumps(ids, indent=2) + "\n")


def _warn(text: str) -> None:
    shown = re.sub(r"://[^/\s@]+@", "://***@", text)  # libraries quote their URI, which may hold a password
    print(f"warning: tracker: {shown}", file=sys.stderr, flush=True)
