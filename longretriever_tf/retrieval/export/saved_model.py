"""Writes an exported version directory, whole or not at all, and finds and loads one."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import (
    aside_path,
    explain_damage,
    read_json_object,
    remove_leftovers,
    replace_directory,
    require_npz,
    require_writable,
    write_text_atomically,
)
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.common.progress import stage
from longretriever_tf.config.config import Config, to_json
from longretriever_tf.data.corpus import Corpus, load_corpus, save_corpus
from longretriever_tf.retrieval.export.version_dirs import EXTRA, corpus_path, versions
from longretriever_tf.retrieval.export.warmup_requests import write_warmup
from longretriever_tf.retrieval.fingerprint import fingerprint_items, read_fingerprint, write_fingerprint
from longretriever_tf.retrieval.index.build import IndexReport
from longretriever_tf.retrieval.index.scann_ops import load_ops
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.sharding.shards_file import SHARDS_FILE
from longretriever_tf.retrieval.signatures import make_signatures

_INDEX = "index.json"


def export_model(
    model: MultiContextRetriever,
    config: Config,
    corpus: Corpus,
    report: IndexReport,
    export_dir: str,
    version: int,
    verify: Callable[[str], object] | None = None,
) -> str:
    """Writes `export_dir/version` aside, then renames it into place.

    Args:
      model: what answers requests.
      config: of the run.
      corpus: of the run.
      report: of the model's index; becomes `assets.extra/index.json`.
      export_dir: holds one folder per version.
      version: 0 takes the next free number; an existing number is replaced.
      verify: is shown the directory before it takes its place; raises UserError where it must not.

    Returns:
      The version directory.

    Raises:
      UserError: the directory is not writable, or the disk is full; what was there stays.
    """
    require_writable(export_dir)
    aside = aside_path(os.path.join(export_dir, str(version or "new")))
    try:
        write_version(model, config, corpus, report, aside)
        if verify is not None:
            verify(aside)
        return _publish(aside, export_dir, version)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"cannot write the export under {export_dir!r}: {str(error).splitlines()[0]}. Nothing there was changed; "
            "free disk space or name another --export_dir"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_version(
    model: MultiContextRetriever, config: Config, corpus: Corpus, report: IndexReport, directory: str
) -> str:
    """Writes all the files of a version; returns its folder for people and tools."""
    signatures = make_signatures(model, config.retrieval)
    with stage("writing the model"):
        tf.saved_model.save(model, directory, signatures=signatures)
    extra = os.path.join(directory, EXTRA)
    os.makedirs(extra)
    write_fingerprint(extra, model.fingerprint)
    with stage("answering the warm-up requests"):
        write_warmup(extra, signatures, config, corpus, model.fingerprint.towers)
    write_text_atomically(os.path.join(extra, "config.json"), to_json(config))
    write_report(extra, report)
    save_corpus(corpus, corpus_path(directory))
    return extra


def write_report(directory: str, report: IndexReport) -> None:
    """Writes index.json into `assets.extra`."""
    write_text_atomically(os.path.join(directory, _INDEX), json.dumps(dataclasses.asdict(report), indent=2) + "\n")


def _publish(aside: str, export_dir: str, version: int) -> str:
    """Gives a whole version its number: taken under a lock, so that two exports at once become two versions."""
    busy = f"another export is about to take its place in {export_dir!r} ({{}})"
    with hold_lock(export_dir, busy, wait=True):
        remove_leftovers(export_dir)
        final = os.path.join(export_dir, str(version or max(versions(export_dir), default=0) + 1))
        replace_directory(aside, final)
    return final


def latest_version(export_dir: str) -> str:
    """Directory of the highest version.

    Raises:
      UserError: there is none.
    """
    numbers = versions(export_dir)
    if not numbers and os.path.exists(os.path.join(export_dir, SHARDS_FILE)):
        raise UserError(
            f"{export_dir!r} holds an export by category ranges, which is asked by a client alone: serve it, and give "
            f"`serving.client.Client` its {SHARDS_FILE} (docs/scaling.md)"
        )
    if not numbers:
        raise UserError(
            f"{export_dir!r} holds no exported version; export one first: longretriever export "
            f"--run_dir=... --export_dir={export_dir}"
        )
    return os.path.join(export_dir, str(numbers[-1]))


def load_index_report(version_dir: str) -> dict[str, Any]:
    """What `IndexReport` said at export; an export of before there were kinds is exact.

    Raises:
      UserError: index.json is torn.
    """
    path = os.path.join(version_dir, EXTRA, _INDEX)
    if not os.path.exists(path):
        return {"index": "packed", "needs_scann": False, "categories": []}
    report = read_json_object(path, "export again")
    with explain_damage(path, "export again"):
        return {"needs_scann": bool(report["needs_scann"]), **report}


def load_version(version_dir: str) -> Any:
    """The SavedModel of a version, with the operations that it needs.

    Raises:
      UserError: it cannot be loaded, or holds ScaNN searchers and scann is missing.
    """
    if load_index_report(version_dir)["needs_scann"]:
        load_ops()
    try:
        return tf.saved_model.load(version_dir)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"{version_dir!r} cannot be loaded: {str(error).splitlines()[0]}; export again") from error


def load_extra(version_dir: str) -> Corpus:
    """The corpus that an export carries for people and tools: readable names by index.

    Raises:
      UserError: it is missing, or it is the corpus of another version.
    """
    path = corpus_path(version_dir)
    if not os.path.exists(path):
        raise UserError(f"{version_dir!r} is not a whole export: {path} does not exist; export again")
    require_npz(path, "export again")
    with explain_damage(path, "export again"):
        corpus = load_corpus(path)
    stamped = read_fingerprint(os.path.join(version_dir, EXTRA)).items
    if stamped and stamped != (held := fingerprint_items(corpus)):
        raise UserError(
            f"{path} holds the items {held}, and this version was exported with {stamped}: files of two versions were "
            "mixed; export again"
        )
    return corpus


def extra_config_dir(version_dir: str) -> str:
    """Where the run's config.json lies within an export."""
    return os.path.join(version_dir, EXTRA)
