"""Whether a version may go where it is sent: seen before TensorFlow is loaded. Imports no TensorFlow."""

import os

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_damage, require_npz, require_writable
from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.common.text import is_text
from longretriever_tf.data.corpus import Corpus, load_corpus
from longretriever_tf.retrieval.export.version_dirs import corpus_path, versions


def require_destination(run_dir: str, export_dir: str) -> None:
    """Refuses a directory that cannot be written, that is a run, or whose versions hold another catalogue.

    Servers take the highest number over at once: a version of another log, by a mistyped directory, would answer in the
    place of the right one.

    Args:
      run_dir: of a finished run, which is exported.
      export_dir: where the version goes.

    Raises:
      UserError: naming the directory and the cure.
    """
    if os.path.exists(os.path.join(export_dir, "config.json")):
        raise UserError(f"--export_dir={export_dir} is a run directory; name another one for the export")
    require_writable(export_dir)
    numbers = versions(export_dir)
    if not numbers:
        return
    earlier = corpus_path(os.path.join(export_dir, str(numbers[-1])))
    try:
        there, here = (_read(path) for path in (earlier, os.path.join(run_dir, "corpus.npz")))
    except UserError:  # a version that nobody can read; a run that is not whole is said by what reads it
        return
    shared, num = _num_shared(there.item_id, here.item_id), there.num_items - FIRST_KNOWN
    categories = _num_shared(there.category_name, here.category_name), there.num_categories - FIRST_KNOWN
    # A shop of news has other items next week, but its sections are the same.
    if shared < 0.1 * num and categories[0] < 0.1 * categories[1]:
        raise UserError(
            f"--export_dir={export_dir} holds another catalogue: of the {num:,} items of its version {numbers[-1]}, "
            f"{shared:,} are among the {here.num_items - FIRST_KNOWN:,} of {run_dir}, its categories are others, too, "
            "and servers would take the new version over at once; name another --export_dir, or move the versions "
            "there away"
        )


def _read(path: str) -> Corpus:
    require_npz(path, "export again")
    with explain_damage(path, "export again"):
        return load_corpus(path)


def _num_shared(there: np.ndarray, here: np.ndarray) -> int:
    """How many names of one vocabulary are in another."""
    if is_text(there) != is_text(here):
        return 0
    return int(np.isin(there[FIRST_KNOWN:], here[FIRST_KNOWN:]).sum())
