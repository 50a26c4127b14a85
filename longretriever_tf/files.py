"""Files that are either whole or absent: written aside, then renamed. Imports no TensorFlow.

A reader never sees half a file, and a full disk or a kill leaves the old one in place.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator

from longretriever_tf.errors import UserError

_CURES = {
    errno.ENOSPC: "the disk is full; free some space, or name another place",
    errno.EDQUOT: "the disk quota is used up; free some space, or name another place",
    errno.EACCES: "no permission to write there; name another place, or change its permissions",
    errno.EPERM: "no permission to write there; name another place, or change its permissions",
    errno.EROFS: "it lies on a read-only file system; name another place",
    errno.ENOTDIR: "a part of the path is a file, not a directory; name another place",
    errno.EEXIST: "it is a file, not a directory; name another place, or move the file away",
}


@contextlib.contextmanager
def explain_os_errors(what: str) -> Iterator[None]:
    """Turns an OSError within the block into a UserError "`what`: why; cure", with the original as its cause."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {_CURES.get(error.errno or 0, error.strerror or str(error))}") from error


def write_text_atomically(path: str, text: str) -> None:
    """Writes `text` (UTF-8) to `path` through a file beside it and a rename; makes the directory if need be.

    Raises:
      UserError: the disk is full or the place not writable. An old file at `path` is then untouched.
    """
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: str, content: bytes) -> None:
    """As `write_text_atomically`, bytes as they are."""
    directory = os.path.dirname(os.path.abspath(path))
    with explain_os_errors(f"cannot write {path!r}"):
        os.makedirs(directory, exist_ok=True)
        aside = os.path.join(directory, f".{os.path.basename(path)}.{os.getpid()}.aside")
        try:
            with open(aside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # before the rename: else a crash may leave the new name with no bytes
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(aside)
            raise


def replace_directory(aside: str, final: str) -> None:
    """Puts the finished directory `aside` in the place of `final`; both must be on one file system.

    A directory cannot be renamed over a full one, so the old `final` steps back as `final`.old, and returns if the
    rename fails. A kill between the two renames leaves the old one whole under that name.

    Raises:
      UserError: a rename failed; `final` is as it was.
    """
    aside, final = aside.rstrip(os.sep), final.rstrip(os.sep)
    old = f"{final}.old"
    with explain_os_errors(f"cannot move {aside!r} to {final!r}"):
        os.makedirs(os.path.dirname(os.path.abspath(final)), exist_ok=True)
        had_old = os.path.isdir(final)
        if had_old:
            shutil.rmtree(old, ignore_errors=True)
            os.rename(final, old)
        try:
            os.rename(aside, final)
        except OSError:
            if had_old:
                os.rename(old, final)
            raise
        shutil.rmtree(old, ignore_errors=True)


def require_writable(directory: str) -> None:
    """Makes `directory` if need be and proves by a trial file that it takes writes: called before long work, not after.

    Raises:
      UserError: it cannot be made or written to; names the directory, the reason and the cure.
    """
    with explain_os_errors(f"output directory {directory!r} is not writable"):
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"trial")
