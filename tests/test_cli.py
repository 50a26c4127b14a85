"""The command `longretriever` as a process: the list of commands, hints, and flagfiles and plans from any directory."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from documents import ROOT, fences

from longretriever_tf import demo
from longretriever_tf.__main__ import COMMANDS, first_line, module_of
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.shipped import expand_flagfiles, find_shipped

KNOWN = [name for names in COMMANDS.values() for name in names]


def run(*arguments: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "longretriever_tf", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=600, env=env)


def test_it_lists_every_command_with_a_line():
    done = run()
    assert done.returncode == 0 and done.stderr == ""
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", done.stdout, re.M))
    assert list(listed) == KNOWN and all(len(line) > 15 for line in listed.values())
    assert len(done.stdout.splitlines()) <= 40 and max(map(len, done.stdout.splitlines())) <= 120
    ends = 'if __name__ == "__main__":'
    runnable = {path.stem for path in (ROOT / "longretriever_tf").glob("[a-z]*.py") if ends in path.read_text()}
    assert runnable == set(KNOWN) - {"load_test"}  # no command is left out


def test_each_command_is_a_module_that_says_what_it_does():
    for name in KNOWN:
        assert (ROOT / "longretriever_tf" / (module_of(name).replace(".", "/") + ".py")).exists()
        assert first_line(name)


@pytest.mark.parametrize(
    ("word", "said"),
    [("trian", "did you mean train?"), ("load-test", "did you mean load_test?"), ("xyzzy", "the commands are demo, ")],
)
def test_a_misspelt_command_gets_a_hint(word, said):
    done = run(word)
    assert done.returncode == 2 and said in done.stderr and repr(word) in done.stderr and done.stdout == ""


def test_a_command_has_its_own_help_errors_and_status(tmp_path):
    done = run("train", "--help")
    assert done.returncode == 0 and done.stdout.startswith("Trains LongRetriever") and "--run_dir" in done.stdout
    done = run("train", "--flagfile=demo", "--dim=7", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: --dim=7 is not a multiple")
    done = run("reproduce", "--plan=quick", "--dry_run", cwd=tmp_path)  # its flagfiles are found, too
    assert done.returncode == 0 and "minutes of work left" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_flagfile_that_nobody_has_gets_a_hint(tmp_path):
    done = run("train", "--flagfile=dmo", cwd=tmp_path)
    assert done.returncode == 2 and "--flagfile=dmo: no such file" in done.stderr
    assert "did you mean --flagfile=demo?" in done.stderr and "Traceback" not in done.stderr


def test_flagfiles_are_found_by_name_and_read_with_those_that_they_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = expand_flagfiles([f"--flagfile={ROOT}/configs/demo.flags"])
    assert "--dataset=complete_journey" in wanted
    for name in ("demo", "demo.flags", "configs/demo.flags"):
        assert expand_flagfiles([f"--flagfile={name}", "--seed=2"]) == [*wanted, "--seed=2"]
        assert expand_flagfiles(["--flagfile", name, "--", "--flagfile=x"]) == [*wanted, "--", "--flagfile=x"]
    profile = expand_flagfiles(["--flagfile=ablations/profile"])
    base = expand_flagfiles(["--flagfile=complete_journey"])  # its first line names this one
    assert profile[: len(base)] == base and len(profile) > len(base)
    pathlib.Path("demo").write_text("# mine\n--seed=9\n")
    assert expand_flagfiles(["--flagfile=demo"]) == ["--seed=9"]  # a user's own file comes first
    pathlib.Path("a.flags").write_text("--flagfile=b.flags\n")
    pathlib.Path("b.flags").write_text("--flagfile=a.flags\n")
    with pytest.raises(UserError, match="a.flags names itself"):
        expand_flagfiles(["--flagfile=a.flags"])
    assert find_shipped("--plan", "quick", "reproduce").endswith("configs/reproduce/quick.toml")
    assert find_shipped("--space", "configs/tune/recipe.toml", "tune").endswith("configs/tune/recipe.toml")


def test_a_demo_that_fails_says_why_on_the_screen(tmp_path):
    done = run("demo", f"--run_dir={tmp_path}/run", "--", "--dim=7")
    assert done.returncode == 2 and "1/5 training" in done.stdout and "failed" in done.stdout
    assert done.stderr.startswith("error: --dim=7 is not a multiple")
    assert "--dim=7" in (tmp_path / "run" / "demo.log").read_text()


def test_a_demo_ends_with_what_was_made_three_figures_and_the_next_command(tmp_path):
    tasks = {"all": {"recall@100": 0.25}, "novel": {"recall@100": 0.125}, "within_category": {"recall@20": 0.5}}
    models = {name: tasks for name in ("longretriever, as served", "popularity", "own items")}
    (tmp_path / "metrics.json").write_text(json.dumps({"split": "test", "num_users": 7, "models": models}))
    (tmp_path / "household.txt").write_text("user 1 as of now\nhistory: 3 events\n\nmerged list\n  #\n  1  tea\n")
    said = demo.summary(str(tmp_path), "exports/x", str(tmp_path / "household.txt"), "users.json")
    assert len(said.splitlines()) <= 30
    for words in ("user 1 as of now", "1  tea", "recall on the test window", "--explorer --explorer_users=users.json"):
        assert words in said
    assert len(re.findall(r"^  0\.\d{3} .* \(best simple baseline, .*: 0\.\d{3}\)$", said, re.M)) == 3
    flags = re.findall(r"--(\w+)", said)
    help_of_serve = run("serve", "--helpfull").stdout
    assert flags and all(f"--{flag}:" in help_of_serve or f"--[no]{flag}:" in help_of_serve for flag in flags)


def test_the_readme_shows_commands_that_there_are():
    shown = {
        word for fence in fences(ROOT / "README.md") for word in re.findall(r"^longretriever (\w+)", fence.text, re.M)
    }
    assert {"demo", "inspect_log", "train", "evaluate", "export"} <= shown <= set(KNOWN)


def test_minimal_trains_nothing_when_asked_for_help():
    done = run("minimal", "--help")
    assert done.returncode == 0 and "The paper in one file" in done.stdout and "1. The log" not in done.stdout


def test_commands_in_help_keep_their_lines():
    """A docstring that is not raw swallows the end of a line that a backslash continues."""
    for name in KNOWN:
        source = ROOT / "longretriever_tf" / (module_of(name).replace(".", "/") + ".py")
        shown = ast.get_docstring(ast.parse(source.read_text()))
        assert max(map(len, shown.splitlines())) <= 120, name


def test_a_demo_names_the_script_so_that_it_can_be_typed(tmp_path, monkeypatch):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert demo._script() == f"{sys.executable} -m longretriever_tf"  # run from a source tree, installed nowhere
    script = tmp_path / ".venv/bin/longretriever"
    script.touch(mode=0o755)
    assert demo._script() == ".venv/bin/longretriever"  # not activated, as after `make demo`
    monkeypatch.chdir("/")
    assert demo._script() == str(script)
    monkeypatch.setenv("PATH", str(script.parent))
    assert demo._script() == "longretriever"
