r"""How far a model is ahead of others by length of history: differences by fifths of the users, with intervals.

  python benchmarks/compare_by_history.py --others='EASE,EASE + own items,TIFU-kNN' \
      --output=results/rolling/by_history.json runs/reproduce/rolling/measures/baselines/*/seed1/metrics.per_user.npz

Reads what `evaluate` leaves next to metrics.json. Files of several windows count together: users fall into fifths
within each window, and the bootstrap draws users, with all windows of each. Where the model has runs of its own,
several seeds perhaps, `--ours='runs/reproduce/rolling/measures/test/window_{}/seed*/metrics.per_user.npz'` says which:
{} stands for the number of the window, in the order of the files, and the mean over seeds counts.
"""

import argparse
import glob
import json
from typing import Any

import numpy as np

from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.common.provenance import describe_origin

_RESAMPLINGS, _SEED = 2000, 1


def main() -> None:
    """Runs the command."""
    arguments = _parse()
    files = sorted({path for pattern in arguments.files for path in glob.glob(pattern)})
    windows = [_read(path) for path in files]
    user = np.concatenate([window["user"] for window in windows])
    part = np.concatenate([_parts(window["history_length"], arguments.parts) for window in windows])
    found: dict[str, Any] = {"files": files, "parts": arguments.parts, "resamplings": _RESAMPLINGS}
    for metric in arguments.metrics.split(","):
        ours = np.concatenate([_ours(window, number, metric, arguments) for number, window in enumerate(windows, 1)])
        for other in arguments.others.split(","):
            gain = ours - np.concatenate([_of(window, other, metric) for window in windows])
            rows = [_interval(gain[part == k], user[part == k]) for k in range(arguments.parts)]
            found.setdefault(metric, {})[other] = rows
            shown = "   ".join(f"{row['mean']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})" for row in rows)
            print(f"{metric}, over {other}, shortest histories first: {shown}")
    if arguments.output:
        origin = describe_origin("python benchmarks/compare_by_history.py", _SEED)
        write_text_atomically(
            arguments.output,
            json.dumps({**origin, "model": arguments.model, "ours": arguments.ours, **found}, indent=2) + "\n",
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="metrics.per_user.npz of each window")
    parser.add_argument("--model", default="longretriever, as served", help="whose lead is asked")
    parser.add_argument("--ours", default="", help="files that hold it, {} for the window; empty: those of the others")
    parser.add_argument("--others", default="EASE + own items,TIFU-kNN", help="over whom, separated by commas")
    parser.add_argument("--metrics", default="all/recall@100,novel/recall@100", help="of each user, by commas")
    parser.add_argument("--parts", type=int, default=5, help="groups of users, of equal size")
    parser.add_argument("--output", default="", help="also write JSON there")
    return parser.parse_args()


def _read(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return dict(stored)


def _ours(window: dict[str, np.ndarray], number: int, metric: str, arguments: argparse.Namespace) -> np.ndarray:
    """The model's metric of each user of a window, the mean over its seeds."""
    if not arguments.ours:
        return _of(window, arguments.model, metric)
    files = sorted(glob.glob(arguments.ours.replace("{}", str(number))))
    if not files:
        raise SystemExit(f"error: --ours={arguments.ours!r} finds no file for window {number}; put {{}} for its number")
    seeds = [_read(path) for path in files]
    if not all(np.array_equal(one["user"], window["user"]) for one in seeds):
        raise SystemExit(f"error: the users of {', '.join(files)} are not those of the others' file of window {number}")
    return np.mean([_of(one, arguments.model, metric) for one in seeds], axis=0)


def _of(window: dict[str, np.ndarray], model: str, metric: str) -> np.ndarray:
    """The metric of each user, NaN without truth."""
    names = window["model"].tolist()
    if model not in names:
        raise SystemExit(f"error: {model!r} is not in the table; there are {', '.join(names)}")
    values: np.ndarray = window[metric][names.index(model)]
    return values


def _parts(length: np.ndarray, count: int) -> np.ndarray:
    """Which part each user is in, 0 with the shortest histories."""
    bounds = np.quantile(length, np.arange(1, count) / count)
    return np.searchsorted(bounds, length, side="right")


def _interval(gain: np.ndarray, user: np.ndarray) -> dict[str, float]:
    """Mean and 95% interval, users drawn with all their windows."""
    known = ~np.isnan(gain)
    _, row = np.unique(user[known], return_inverse=True)
    total, count = np.bincount(row, gain[known]), np.bincount(row)
    drawn = np.random.default_rng(_SEED).integers(0, len(total), (_RESAMPLINGS, len(total)))
    low, high = np.quantile(total[drawn].sum(1) / count[drawn].sum(1), [0.025, 0.975])
    return {"users": len(total), "mean": float(total.sum() / count.sum()), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
