"""Where the files of a table lie: a file, a directory, a glob, a Hive-partitioned tree, here or on a remote store.

fsspec finds them, so that a remote path works where the package that reads its store is installed.
Imports no TensorFlow.
"""

import os
import re
import stat
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from longretriever_tf.common.errors import UserError

_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_GLOB = re.compile(r"[*?\[]")
_PARTITION = re.compile(r"^([^=]+)=(.*)$")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class DataFile(NamedTuple):
    """One file of a table.

    Attributes:
      path: as its file system names it.
      size: in bytes.
      stamp: changes whenever the file does.
      partition: columns that its folders name, as in `day=2024-01-31/`; None is a missing value.
    """

    path: str
    size: int
    stamp: str
    partition: dict[str, str | None]


class Located(NamedTuple):
    """The files of a table, sorted by path.

    Attributes:
      filesystem: that opens them.
      files: at least one.
      is_one: whether the path names a single file.
    """

    filesystem: fsspec.AbstractFileSystem
    files: tuple[DataFile, ...]
    is_one: bool

    @property
    def is_local(self) -> bool:
        """Whether the paths are those of this machine."""
        return isinstance(self.filesystem, LocalFileSystem)


def locate(source: str, path: str) -> Located:
    """Finds the files that a path names.

    Names that begin with a dot or an underscore are left out of directories and globs, as Spark and Hive do: `_SUCCESS`
    and checksums are no data.

    Args:
      source: flag and path, for the error.
      path: of a file or a directory, a glob, or a URL that fsspec knows.

    Raises:
      UserError: there is none, it is no regular file, it may not be read, or the package for its store is missing.
    """
    filesystem, root = _open_filesystem(source, path)
    try:
        files, is_one = _find(filesystem, root)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except Exception as error:  # what a remote store raises has no common base
        raise UserError(f"{source}: {one_line(error)}") from error
    return Located(filesystem, tuple(_describe(filesystem, name) for name in sorted(files)), is_one)


def one_line(error: BaseException) -> str:
    """What an error says, in one line; an OSError without its number."""
    if isinstance(error, PermissionError):
        return f"no permission to read {error.filename or 'it'}"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split()) or type(error).__name__


def _open_filesystem(source: str, path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if not _URL.match(path):
        return LocalFileSystem(), os.path.abspath(path) + (os.sep if path.endswith(os.sep) else "")
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise UserError(f"{source}: the package for this store is not installed ({one_line(error)})") from error
    except Exception as error:  # each store has errors of its own
        raise UserError(f"{source}: {one_line(error)}") from error
    return filesystem, root


def _find(filesystem: fsspec.AbstractFileSystem, root: str) -> tuple[list[str], bool]:
    """The paths, and whether `root` itself is the one."""
    kind = _kind(filesystem, root)
    if kind == "file":
        return [root], True
    if kind == "directory":
        files = list(_walk(filesystem, root))
        if not files:
            raise UserError("the directory holds no data files")
        return files, False
    if not _GLOB.search(root):
        raise UserError("no such file or directory")
    fixed = os.path.dirname(root[: _GLOB.search(root).start()])  # type: ignore[union-attr]
    files = []
    for name in filesystem.glob(root):
        if _is_hidden(name, fixed):
            continue
        files += [name] if _kind(filesystem, name) == "file" else _walk(filesystem, name)
    if not files:
        raise UserError("no file matches")
    return list(dict.fromkeys(files)), False


def _kind(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """`file`, `directory`, or empty where there is neither."""
    if not isinstance(filesystem, LocalFileSystem):
        return "file" if filesystem.isfile(path) else "directory" if filesystem.isdir(path) else ""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return ""
    if stat.S_ISDIR(mode):
        return "directory"
    if not stat.S_ISREG(mode):
        raise UserError("is a pipe, a socket or a device, which cannot be read twice: write the table to a file")
    return "file"


def _walk(filesystem: fsspec.AbstractFileSystem, root: str) -> Iterator[str]:
    """The files below a directory that are not hidden; a folder that may not be read is an error."""
    if isinstance(filesystem, LocalFileSystem):
        folders = os.walk(root, onerror=_reraise)
        names = (os.path.join(folder, name) for folder, _, names in folders for name in names)
    else:
        names = iter(filesystem.find(root))
    yield from (name for name in names if not _is_hidden(name, root))


def _reraise(error: OSError) -> None:
    raise error


def _is_hidden(path: str, root: str) -> bool:
    parts = path[len(root) :].replace(os.sep, "/").split("/")
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)


def _describe(filesystem: fsspec.AbstractFileSystem, path: str) -> DataFile:
    if isinstance(filesystem, LocalFileSystem):
        status = os.stat(path)
        # Tools that keep a file's size and time of writing cannot keep the time of that change.
        size, stamp = status.st_size, f"{status.st_mtime_ns} {status.st_ctime_ns}"
    else:
        size, stamp = filesystem.size(path) or 0, filesystem.ukey(path)
    folders = (_PARTITION.match(part) for part in path.replace(os.sep, "/").split("/")[:-1])
    partition = {
        urllib.parse.unquote(match[1]): None if match[2] == _NO_VALUE else urllib.parse.unquote(match[2])
        for match in folders
        if match
    }
    return DataFile(path, size, stamp, partition)
