import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from longretriever_tf.common import files
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import replace_directory, require_writable, write_text_atomically
from longretriever_tf.common.locks import LOCK_FILE, hold_lock

BUSY = "the place is in use ({}): wait"


def fail_with(code: int):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_keeps_the_old_file_and_leaves_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_text_atomically(str(path), "old é")
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(UserError, match=r"metrics\.json.*disk is full.*free some space"):
        write_text_atomically(str(path), "new")
    assert path.read_text(encoding="utf-8") == "old é"
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_replace_directory_swaps_whole_directories(tmp_path):
    aside, final = tmp_path / "aside", tmp_path / "deep" / "1"
    for text in ("first", "second"):
        aside.mkdir()
        (aside / text).write_text(text)
        replace_directory(str(aside), f"{final}/")
        assert os.listdir(final) == [text]
        assert os.listdir(final.parent) == ["1"] and not aside.exists()


def test_replace_directory_puts_the_old_one_back_if_the_new_cannot_come(tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    (final / "kept").write_text("kept")
    with pytest.raises(UserError, match="absent.*final"):
        replace_directory(str(tmp_path / "absent"), str(final))
    assert os.listdir(final) == ["kept"] and os.listdir(tmp_path) == ["final"]


def test_require_writable_makes_the_directory_or_says_why_not(tmp_path, monkeypatch):
    directory = tmp_path / "runs" / "demo"
    require_writable(str(directory))
    assert directory.is_dir() and os.listdir(directory) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file/deep' is not writable: a part of the path is a file"):
        require_writable(str(tmp_path / "file" / "deep"))
    with pytest.raises(UserError, match=r"file' is not writable: it is a file, not a directory"):
        require_writable(str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.TemporaryFile", fail_with(errno.EACCES))  # root may write anywhere, so pretend
    with pytest.raises(UserError, match=r"demo' is not writable: no permission"):
        require_writable(str(directory))


def test_two_writers_of_one_file_do_not_share_what_is_written_aside(tmp_path):
    path, texts = str(tmp_path / "metrics.json"), ["a" * 100_000, "b" * 100_000]
    threads = [
        threading.Thread(target=lambda text=text: [write_text_atomically(path, text) for _ in range(20)])
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open(path, encoding="utf-8") as file:
        assert file.read() in texts
    assert os.listdir(tmp_path) == ["metrics.json"]
    assert files.aside_path(path) != files.aside_path(path)


@pytest.fixture
def dead_pid() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


def test_what_a_dead_process_left_aside_is_removed_and_what_a_living_one_writes_stays(tmp_path, dead_pid):
    mine = files.aside_path(str(tmp_path / "weights"))
    theirs = mine.replace(f".{os.getpid()}.", f".{dead_pid}.")
    foreign = mine.replace(f".{files._host()}.", ".another-machine.")
    for path in (mine, theirs, foreign):
        os.makedirs(os.path.join(path, "deep"))
    kept = [".hidden", "notes.aside", "3.old", ".lock"]
    for name in kept:
        (tmp_path / name).write_text("a user's own")
    old_format = tmp_path / ".7.aside"
    old_format.write_text("of an earlier version")
    require_writable(str(tmp_path))
    names = [*kept, os.path.basename(mine), os.path.basename(foreign), ".7.aside"]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    for path in (foreign, str(old_format)):
        os.utime(path, (1, 1))  # forgotten for years
    require_writable(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, os.path.basename(mine)])


def test_a_version_that_stepped_back_before_a_kill_takes_its_place_again(tmp_path, dead_pid):
    old = files.aside_path(str(tmp_path / "1"), "old").replace(f".{os.getpid()}.", f".{dead_pid}.")
    os.makedirs(old)
    with open(os.path.join(old, "saved_model.pb"), "w", encoding="utf-8") as file:
        file.write("whole")
    files.remove_leftovers(str(tmp_path))
    assert os.listdir(tmp_path) == ["1"] and os.listdir(tmp_path / "1") == ["saved_model.pb"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"PK\x03\x04 torn", b"null"])
def test_torn_json_and_arrays_are_one_line_with_the_path_and_the_cure(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    for read in (files.read_json_object, files.read_arrays):
        with pytest.raises(UserError) as caught:
            read(str(path), "write it again")
        assert str(path) in str(caught.value) and "write it again" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    np.savez(tmp_path / "good.npz", a=np.arange(1000))
    whole = (tmp_path / "good.npz").read_bytes()
    for size in (1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "good.npz").write_bytes(whole[:size])
        with pytest.raises(UserError, match="write it again"):
            files.read_arrays(str(tmp_path / "good.npz"), "write it again")


def no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_lock_is_held_once_and_names_its_holder(tmp_path, monkeypatch, has_locks):
    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    with hold_lock(str(tmp_path), BUSY):
        with pytest.raises(UserError, match=rf"in use \(process {os.getpid()} on .*\): wait"):
            with hold_lock(str(tmp_path), BUSY):
                pass
    with hold_lock(str(tmp_path), BUSY):
        pass
    with hold_lock(str(tmp_path), BUSY, wait=True):
        pass


def test_a_waiting_lock_gets_it_when_the_holder_lets_go(tmp_path):
    order = []

    def second():
        with hold_lock(str(tmp_path), BUSY, wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with hold_lock(str(tmp_path), BUSY):
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_killed_process_holds_no_lock(tmp_path, monkeypatch, has_locks):
    code = "import sys, time\n"
    if not has_locks:
        code += "import errno, fcntl\ndef no_locks(*_): raise OSError(errno.ENOLCK, 'none')\nfcntl.flock = no_locks\n"
    code += "from longretriever_tf.common.locks import hold_lock\n"
    code += "with hold_lock(sys.argv[1], '{}'):\n    print('held', flush=True)\n    time.sleep(600)\n"
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        if not has_locks:
            monkeypatch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(UserError, match=re.escape(f"process {child.pid} on")):
            with hold_lock(str(tmp_path), BUSY):
                pass
        child.send_signal(signal.SIGKILL)
    with hold_lock(str(tmp_path), BUSY):
        assert LOCK_FILE in os.listdir(tmp_path)
