"""Writes an exported version directory, whole or not at all, and finds and loads one."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from longretriever_tf.config import Config, to_json
from longretriever_tf.data.corpus import Corpus, load_corpus, save_corpus
from longretriever_tf.errors import UserError
from longretriever_tf.files import replace_directory, require_writable, write_text_atomically
from longretriever_tf.retrieval.category_index import IndexReport
from longretriever_tf.retrieval.fingerprint import fingerprint_items, read_fingerprint, write_fingerprint
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.scann_index import load_ops
from longretriever_tf.retrieval.signatures import make_signatures
from longretriever_tf.retrieval.warmup_requests import write_warmup

_EXTRA = "assets.extra"
"""TensorFlow Serving ignores this folder but for warm-up requests: what people and tools need lies here."""

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
    version = version or max(versions(export_dir), default=0) + 1
    final = os.path.join(export_dir, str(version))
    aside = os.path.join(export_dir, f".{version}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        signatures = make_signatures(model, config.retrieval)
        tf.saved_model.save(model, aside, signatures=signatures)
        extra = os.path.join(aside, _EXTRA)
        os.makedirs(extra)
        write_fingerprint(extra, model.fingerprint)
        write_warmup(extra, signatures, config, corpus, model.fingerprint.towers)
        write_text_atomically(os.path.join(extra, "config.json"), to_json(config))
        index = json.dumps(dataclasses.asdict(report), indent=2) + "\n"
        write_text_atomically(os.path.join(extra, _INDEX), index)
        save_corpus(corpus, os.path.join(extra, "corpus.npz"))
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(
            f"cannot write the export under {export_dir!r}: {str(error).splitlines()[0]}. Nothing there was changed; "
            "free disk space or name another --export_dir"
        ) from error
    if verify is not None:
        try:
            verify(aside)
        except UserError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    replace_directory(aside, final)
    return final


def versions(export_dir: str) -> list[int]:
    """Version numbers under `export_dir`, ascending."""
    if not os.path.isdir(export_dir):
        return []
    return sorted(int(name) for name in os.listdir(export_dir) if name.isdigit())


def latest_version(export_dir: str) -> str:
    """Directory of the highest version.

    Raises:
      UserError: there is none.
    """
    found = versions(export_dir)
    if not found:
        raise UserError(
            f"{export_dir!r} holds no exported version; export one first: python -m longretriever_tf.export "
            f"--run_dir=... --export_dir={export_dir}"
        )
    return os.path.join(export_dir, str(found[-1]))


def load_index_report(version_dir: str) -> dict[str, Any]:
    """What `IndexReport` said at export; an export of before there were kinds is exact."""
    path = os.path.join(version_dir, _EXTRA, _INDEX)
    if not os.path.exists(path):
        return {"index": "packed", "needs_scann": False, "categories": []}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


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
    path = os.path.join(version_dir, _EXTRA, "corpus.npz")
    if not os.path.exists(path):
        raise UserError(f"{version_dir!r} is not a whole export: {path} does not exist; export again")
    corpus = load_corpus(path)
    stamped = read_fingerprint(os.path.join(version_dir, _EXTRA)).items
    if stamped and stamped != (found := fingerprint_items(corpus)):
        raise UserError(
            f"{path} holds the items {found}, and this version was exported with {stamped}: files of two versions were "
            "mixed; export again"
        )
    return corpus


def extra_config_dir(version_dir: str) -> str:
    """Where the run's config.json lies within an export."""
    return os.path.join(version_dir, _EXTRA)
