"""One process at a time in a directory. Imports no TensorFlow.

The lock is the kernel's (flock) on a file `.lock` within the directory: it is free the time its process ends, however
it ends. A file system without such locks gets a file that names its owner; one that names a dead process is taken over.
"""

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_os_errors, is_alive

LOCK_FILE = ".lock"
_POLL_S = 0.1
_SAY_AFTER_S = 2.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What flock says on a file system that knows no locks."""


@contextlib.contextmanager
def hold_lock(directory: str, busy: str, wait: bool = False, name: str = LOCK_FILE) -> Iterator[None]:
    """Holds the lock of a directory, which must exist, for the block.

    Args:
      directory: where the lock file lies.
      busy: what to say where another process holds it, `{}` for that process: names the directory and the cure.
      wait: until it is free, instead of refusing.
      name: of the lock file.

    Raises:
      UserError: another process holds it, or the lock file cannot be made.
    """
    path, started, is_said = os.path.join(directory, name), time.monotonic(), False
    with contextlib.ExitStack() as held:
        while True:
            owner = _take(path, held)
            if owner is None:
                break
            if not wait:
                raise UserError(busy.format(owner))
            if not is_said and time.monotonic() - started > _SAY_AFTER_S:
                is_said = True
                print(f"waiting: {busy.format(owner)}", file=sys.stderr, flush=True)
            time.sleep(_POLL_S)
        yield


def _take(path: str, held: contextlib.ExitStack) -> str | None:
    """Takes the lock into `held`; who has it where it is taken."""
    with explain_os_errors(f"cannot lock {path!r}"):
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below, or with the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = _read_owner(path)
        file.close()
        return _take_by_file(f"{path}.owner", held) if error.errno in _NO_LOCKS else owner
    held.enter_context(file)
    with contextlib.suppress(OSError):  # the name is for people: a full disk must not stop anyone here
        file.truncate(0)
        file.write(_own_name())
        file.flush()
    return None


def _take_by_file(path: str, held: contextlib.ExitStack) -> str | None:
    """The lock of a file system without locks: the file belongs to whoever made it."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(_own_name())
    except FileExistsError:
        owner = _read_owner(path)
        host, _, pid = owner.removeprefix("process ").partition(" on ")[::-1]
        if host == socket.gethostname() and pid.isdigit() and not is_alive(int(pid)):
            with contextlib.suppress(OSError):
                os.remove(path)
            return _take_by_file(path, held)
        return f"{owner}; if that has ended, delete {path}"
    except OSError as error:
        raise UserError(f"cannot lock {path!r}: {error.strerror}; name another directory") from error
    held.callback(_remove, path)
    return None


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


def _own_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _read_owner(path: str) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
        return file.read(200).strip() or "another process"
    return "another process"
