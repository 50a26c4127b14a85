"""Files that are either whole or absent: written aside, then renamed. Imports no TensorFlow.

A reader never sees half a file, and a full disk or a kill leaves the old one as it was. What is written aside carries
the name of its process, so that two of them never share it, and `remove_leftovers` can tell what a dead one left.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError

_CURES = {
    errno.ENOSPC: "the disk is full; free some space, or name another path",
    errno.EDQUOT: "the disk quota is used up; free some space, or name another path",
    errno.EACCES: "no permission to write there; name another path, or change its permissions",
    errno.EPERM: "no permission to write there; name another path, or change its permissions",
    errno.EROFS: "it lies on a read-only file system; name another path",
    errno.ENOTDIR: "a part of the path is a file, not a directory; name another path",
    errno.EEXIST: "it is a file, not a directory; name another path, or move the file away",
    errno.EFBIG: "the file would be larger than this process may write (ulimit -f); raise the limit",
}

_LEFTOVER = re.compile(r"\.(?P<label>.+)\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.(?P<kind>aside|old)")
_FORGOTTEN_S = 7 * 86_400
"""What a process of another machine, or an earlier version, left aside is taken for abandoned after so long."""

_DAMAGE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
"""What numpy, zipfile and json raise for a file that is cut short or holds something else."""


@contextlib.contextmanager
def explain_os_errors(what: str) -> Iterator[None]:
    """Turns an OSError within the block into a UserError "`what`: why; cure", with the original as its cause."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {_CURES.get(error.errno or 0, error.strerror or str(error))}") from error


def write_text_atomically(path: str, text: str) -> None:
    """Writes `text` (UTF-8) to `path`: a temporary file in its directory, which is made if need be, and a rename.

    Raises:
      UserError: the disk is full or the place not writable. An old file at `path` is then untouched.
    """
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: str, content: bytes) -> None:
    """As `write_text_atomically`, bytes as they are."""
    directory = os.path.dirname(os.path.abspath(path))
    with explain_os_errors(f"cannot write {path!r}"):
        os.makedirs(directory, exist_ok=True)
        with open_aside(path) as aside, open(aside, "wb") as file:
            file.write(content)


def save_array(path: str, array: np.ndarray) -> None:
    """Writes an .npy file, whole or not at all.

    Raises:
      UserError: as `write_text_atomically`.
    """
    with explain_os_errors(f"cannot write {path!r}"), open_aside(path) as aside, open(aside, "wb") as file:
        np.save(file, array)


def save_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file, which `read_arrays` reads, whole or not at all.

    Raises:
      UserError: as `write_text_atomically`.
    """
    with explain_os_errors(f"cannot write {path!r}"), open_aside(path) as aside, open(aside, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes every keyword for allow_pickle


@contextlib.contextmanager
def open_aside(path: str) -> Iterator[str]:
    """Yields a private path next to `path`; what the block wrote there takes the name `path` at its end.

    If the block raises, nothing stays of it and an old file at `path` is untouched.
    """
    aside = aside_path(path)
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())  # before the rename: else a crash may leave the new name with no bytes
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(aside)
        raise


def aside_path(path: str, kind: str = "aside") -> str:
    """A hidden name next to `path` that no other process, thread or call takes; `remove_leftovers` knows it."""
    directory, label = os.path.split(os.path.abspath(path))
    return os.path.join(directory, f".{label[:120]}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.{kind}")


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())[:63] or "localhost"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs under `pid`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, and is someone else's
        return True
    return True


def remove_leftovers(directory: str) -> None:
    """Removes what killed processes wrote aside in `directory`; what living ones write stays.

    A directory that had stepped back for a new one which never came takes its place again.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            path, match = os.path.join(directory, name), _LEFTOVER.fullmatch(name)
            if not _is_abandoned(path, match):
                continue
            final = os.path.join(directory, match["label"]) if match else path
            if match and match["kind"] == "old" and not os.path.exists(final):
                os.rename(path, final)
            elif os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.remove(path)


def _is_abandoned(path: str, match: re.Match[str] | None) -> bool:
    if match and match["host"] == _host():
        return not is_alive(int(match["pid"]))
    is_aside = match is not None or (os.path.basename(path).startswith(".") and path.endswith(".aside"))
    return is_aside and time.time() - os.lstat(path).st_mtime > _FORGOTTEN_S


def first_line(error: BaseException) -> str:
    """What an error says, without its further lines; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


@contextlib.contextmanager
def explain_damage(path: str, cure: str) -> Iterator[None]:
    """Turns what readers of JSON and .npz raise for a torn or foreign file into one line: `path`, why, `cure`.

    Raises:
      UserError: as it is where the block raised one.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {cure}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}): {cure}") from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged, or is another kind of file ({first_line(error)}): {cure}") from error


def read_json_object(path: str, cure: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
      path: of the file.
      cure: what to do where it is torn: ends the error's line.

    Raises:
      UserError: the file cannot be read, or holds no JSON object.
    """
    with explain_damage(path, cure), open(path, encoding="utf-8") as file:
        values = json.load(file)
        if not isinstance(values, dict):
            raise ValueError(f"expected a JSON object, found {type(values).__name__}")
        return values


def read_arrays(path: str, cure: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, all of them read.

    Raises:
      UserError: the file cannot be read, or is torn, or no .npz.
    """
    require_npz(path, cure)
    with explain_damage(path, cure), np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def require_npz(path: str, cure: str) -> None:
    """Refuses what is no whole .npz, before `np.load` leaves it open.

    Raises:
      UserError: the file cannot be read, or is torn, or no .npz.
    """
    with explain_damage(path, cure), zipfile.ZipFile(path):
        pass


def replace_directory(aside: str, final: str) -> None:
    """Puts the finished directory `aside` in the place of `final`; both must be on one file system.

    A directory cannot be renamed over a full one, so the old `final` steps back under a hidden name, and returns if the
    rename fails. A kill between the two renames leaves the old one whole under that name; `remove_leftovers` brings it
    back.

    Raises:
      UserError: a rename failed; `final` is as it was.
    """
    aside, final = aside.rstrip(os.sep), final.rstrip(os.sep)
    old = aside_path(final, "old")
    with explain_os_errors(f"cannot move {aside!r} to {final!r}"):
        os.makedirs(os.path.dirname(os.path.abspath(final)), exist_ok=True)
        had_old = os.path.isdir(final)
        if had_old:
            os.rename(final, old)
        try:
            os.rename(aside, final)
        except OSError:
            if had_old:
                os.rename(old, final)
            raise
        shutil.rmtree(old, ignore_errors=True)


def require_output(path: str) -> None:
    """As `require_writable` for a file that is written at the end of long work: its directory, and that it is none.

    Raises:
      UserError: `path` is a directory, or its directory cannot be made or written to.
    """
    if os.path.isdir(path):
        raise UserError(f"cannot write {path!r}: it is a directory; name a file in it")
    require_writable(os.path.dirname(os.path.abspath(path)))


def require_writable(directory: str) -> None:
    """Makes `directory` if need be and proves by a trial file that it takes writes: called before long work, not after.

    What killed processes left aside there is removed.

    Raises:
      UserError: it cannot be made or written to; names the directory, the reason and the cure.
    """
    with explain_os_errors(f"output directory {directory!r} is not writable"):
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"trial")
    remove_leftovers(directory)
