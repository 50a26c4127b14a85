"""Preparing a TFDS dataset once, with nothing on stdout and with errors that name the cure."""

import contextlib
import glob
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator

import requests
import tensorflow_datasets as tfds
from absl import logging
from google.protobuf import json_format

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import first_line
from longretriever_tf.common.locks import hold_lock

_DAMAGE = (json.JSONDecodeError, UnicodeDecodeError, json_format.ParseError)
_DAMAGED_RECORDS = (ValueError, KeyError, IndexError, TypeError)


def prepare(builder: tfds.core.DatasetBuilder, downloads: bool = False) -> None:
    """Prepares the builder's records unless they are there.

    TFDS writes into a temporary directory and renames it, so a killed run leaves nothing that looks prepared. One
    process prepares; others wait for it, and the leftovers of killed ones are removed.

    Args:
      builder: of the dataset.
      downloads: its files come from the network; TFDS then prints their size, else only its progress bars.

    Raises:
      UserError: the data directory cannot be written, holds something else, or a download failed.
    """
    if _is_ready(builder):
        return
    parent, version = os.path.split(os.path.normpath(builder.data_dir))
    try:
        os.makedirs(parent, exist_ok=True)
    except OSError as error:
        raise _cannot_write(parent, error) from error
    busy = f"{builder.data_dir} is being prepared by another process ({{}})"
    above, kind = os.path.split(parent)
    with hold_lock(above, busy, wait=True, name=f".{kind}-{version}.lock"):
        _remove_incomplete(parent, version)
        if _is_ready(builder):
            return
        _require_free(builder)
        _prepare(builder, parent, downloads)


def _prepare(builder: tfds.core.DatasetBuilder, parent: str, downloads: bool) -> None:
    import tensorflow as tf

    try:
        if not sys.stderr.isatty():  # bars that redraw themselves are noise in a file
            tfds.disable_progress_bar()
        # stdout belongs to the command's own result, and "Downloading ... Unknown size" is noise without a download.
        with contextlib.redirect_stdout(sys.stderr if downloads else io.StringIO()):
            builder.download_and_prepare(file_format="tfrecord")
    except requests.RequestException as error:  # an OSError, but not the disk's
        raise UserError(f"cannot download {builder.info.full_name}: {error}") from error
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        if not _is_of_the_disk(error):
            raise
        raise _cannot_write(parent, error) from error
    finally:
        _remove_incomplete(parent, os.path.basename(os.path.normpath(builder.data_dir)))


def _is_of_the_disk(error: BaseException | None) -> bool:
    """Whether the error, or one that it was raised from, is the system's or TensorFlow's: TFDS wraps them."""
    import tensorflow as tf

    while error is not None:
        if isinstance(error, OSError | tf.errors.OpError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _cannot_write(parent: str, error: BaseException) -> UserError:
    return UserError(
        f"cannot write prepared data to {parent}: {first_line(error)}. Nothing of it was kept. "
        "Name a writable folder with room: --data_dir=..."
    )


@contextlib.contextmanager
def explain_damaged_records(data_dir: str, name: str, reads_records: bool = True) -> Iterator[None]:
    """Turns what readers raise for torn prepared files into one line.

    Args:
      data_dir: where TFDS keeps prepared data; "": its own default.
      name: of the dataset there.
      reads_records: the block reads prepared records and nothing else, so that whatever fails there is their damage;
        else only what readers of TFDS's own descriptions raise is.

    Raises:
      UserError: the block met a file that is cut short or holds something else.
    """
    import tensorflow as tf

    damage = (*_DAMAGE, tf.errors.OpError, *(_DAMAGED_RECORDS if reads_records else ()))
    try:
        yield
    except UserError:
        raise
    except damage as error:
        folder = os.path.join(os.path.expanduser(data_dir) or str(tfds.core.constants.DATA_DIR), name)
        raise UserError(
            f"the prepared data under {folder} are damaged ({first_line(error)}): delete that folder and run the same "
            "command again, which prepares them anew"
        ) from error


def _require_free(builder: tfds.core.DatasetBuilder) -> None:
    if os.path.isdir(builder.data_dir) and os.listdir(builder.data_dir):
        raise UserError(
            f"{builder.data_dir} exists but is no prepared dataset (dataset_info.json is missing): "
            "delete it and run again, or name another --data_dir"
        )


def _remove_incomplete(parent: str, version: str) -> None:
    """Removes the folders aside of processes that were killed; called under the lock, so none of them is in use."""
    for path in glob.glob(os.path.join(glob.escape(parent), f"incomplete.*{glob.escape(version)}*")):
        shutil.rmtree(path, ignore_errors=True)


def _is_ready(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether the records are there; a builder older than they are then reads what they hold."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS warns about what is merely not prepared yet
    try:
        is_prepared = builder.is_prepared()
    finally:
        logging.set_verbosity(verbosity)
    if is_prepared and not builder.info.splits:
        builder.info.read_from_directory(builder.data_dir)
    return is_prepared
