"""Preparing a TFDS dataset once: aside and renamed, with nothing on stdout, and errors that a user can mend."""

import contextlib
import os
import sys

import requests
import tensorflow_datasets as tfds
from absl import logging

from longretriever_tf.errors import UserError


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Prepares the builder's records unless they are there.

    TFDS writes into a directory aside and renames it, so a killed run leaves nothing that looks prepared.

    Raises:
      UserError: the data directory cannot be written, holds something else, or a download failed.
    """
    if _is_prepared(builder):
        _read_info(builder)
        return
    if os.path.isdir(builder.data_dir) and os.listdir(builder.data_dir):
        raise UserError(
            f"{builder.data_dir} exists but is no prepared dataset (dataset_info.json is missing): "
            "delete it and run again, or name another --data_dir"
        )
    try:
        if not sys.stderr.isatty():  # bars that redraw themselves are noise in a file
            tfds.disable_progress_bar()
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the command's own answer
            builder.download_and_prepare(file_format="tfrecord")
    except requests.RequestException as error:  # an OSError, but not the disk's
        raise UserError(f"cannot download {builder.info.full_name}: {error}") from error
    except OSError as error:
        if _is_prepared(builder):  # another process prepared it meanwhile
            _read_info(builder)
            return
        raise UserError(
            f"cannot write prepared data to {os.path.dirname(builder.data_dir)}: {error}. "
            "Name a writable folder with room: --data_dir=..."
        ) from error


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS warns about what is merely not prepared yet
    try:
        return builder.is_prepared()
    finally:
        logging.set_verbosity(verbosity)


def _read_info(builder: tfds.core.DatasetBuilder) -> None:
    """What the records hold, for a builder that was made before another process had prepared them."""
    if not builder.info.splits:
        builder.info.read_from_directory(builder.data_dir)
