"""The command line as a user meets it: a child process, its exit status and its words."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import pytest
from documents import fences

from longretriever_tf.config.config import Config, from_dict
from longretriever_tf.config.snapshots import settled

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = """
import json, sys
from longretriever_tf.config import config
from longretriever_tf.config import flags
from longretriever_tf.common.errors import UserError
flags.define_config_flags("data", "model", "train", "retrieval", "baseline")
def main(argv):
    config_of_flags = flags.config_from_flags()
    if config_of_flags.train.seed == 13:
        raise UserError("seed 13 is unlucky")
    print(config.to_json(config_of_flags))
flags.run_command(main)
"""


def run(*arguments: str, command: tuple[str, ...] = ("-c", COMMAND)) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)


def flagfile(tmp_path: pathlib.Path, *lines: str) -> str:
    (tmp_path / "test.flags").write_text("\n".join(lines) + "\n")
    return f"--flagfile={tmp_path / 'test.flags'}"


def test_no_flag_gives_the_defaults_and_a_flag_reaches_its_section(tmp_path):
    assert from_dict(Config, json.loads(run().stdout)) == Config()
    given = flagfile(
        tmp_path, "# a comment", "--dim=32", "--norepeat_term", "--item_features=brand,colour", "--window_days=7"
    )
    made = from_dict(Config, json.loads(run(given, "--dim=16").stdout))
    assert made == Config(
        data=dataclasses.replace(Config().data, item_features=("brand", "colour"), window_days=7.0),
        model=dataclasses.replace(Config().model, dim=16, repeat_term=False),
    )  # the later --dim wins


FORMER = json.loads((ROOT / "tests" / "data" / "former_configs.json").read_text())
"""What flags gave before there were recipes: the defaults, and what flagfiles, plans and README.md changed of them."""
CHANGED_SINCE = {"retrieval": {"num_interests": 0}}
"""Defaults that have changed on purpose (CHANGELOG.md): a request searches what can still enter its list."""

SEVERAL = """
import json, sys
from absl import flags as absl_flags
from longretriever_tf.config import config, flags
flags.define_config_flags("data", "model", "train", "retrieval", "index", "baseline")
for given in json.load(sys.stdin):
    absl_flags.FLAGS.unparse_flags()
    for name in absl_flags.FLAGS:
        absl_flags.FLAGS[name].unparse()
    absl_flags.FLAGS(["", *given])
    print(json.dumps(json.loads(config.to_json(flags.config_from_flags()))))
"""


def configs_of(asked: list[list[str]]) -> list[Config]:
    """The configs that lines of flags give, all in one child process."""
    child = subprocess.run(
        [sys.executable, "-c", SEVERAL], input=json.dumps(asked), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert child.returncode == 0, child.stderr
    return [from_dict(Config, json.loads(line)) for line in child.stdout.splitlines()]


def former_config(changed: dict) -> Config:
    return from_dict(
        Config,
        {
            name: {**values, **CHANGED_SINCE.get(name, {}), **changed.get(name, {})}
            for name, values in FORMER["defaults"].items()
        },
    )


def as_run(config: Config) -> Config:
    """What flags come to, where they leave it to the log, on one as large as Complete Journey."""
    whole = settled(config)
    return dataclasses.replace(whole, train=dataclasses.replace(whole.train, epochs=whole.train.epochs or 1))


def test_flagfiles_plans_and_readme_describe_the_runs_that_they_always_did(tmp_path):
    given = {}
    for name in FORMER["asked"]:
        plan, _, run_name = name.partition(":")
        if name.startswith("README"):
            (my_flags,) = (fence.text for fence in fences(ROOT / "README.md") if fence.text.startswith("# my.flags"))
            given[name] = [flagfile(tmp_path, my_flags)]
        elif run_name:
            given[name] = tomllib.loads((ROOT / plan).read_text())["runs"][run_name]["flags"]
        else:
            given[name] = [f"--flagfile={name}"]
    for name, config in zip(given, configs_of(list(given.values())), strict=True):
        assert as_run(config) == as_run(former_config(FORMER["asked"][name])), name


def test_recipes_are_whole_configs_and_flags_win_over_them():
    full, demo, paper, compact, mixed = configs_of(
        [
            ["--recipe=full", "--cut=test"],
            ["--flagfile=configs/demo.flags"],
            ["--recipe=paper"],
            ["--recipe=compact"],
            ["--examples=event", "--recipe=paper", "--num_layers=1", "--nonormalize"],
        ]
    )
    assert full == demo and as_run(compact) == as_run(former_config({}))
    assert mixed == dataclasses.replace(paper, model=dataclasses.replace(paper.model, num_layers=1))
    child = run("--recipe=paper", "--model=mind")
    assert child.returncode == 2 and "--recipe=paper with --model=mind" in child.stderr


def test_former_names_of_flags_are_accepted_and_removed_ones_explained():
    now, former = configs_of(
        [
            ["--history_dropout=0.25", "--history_folds=2", "--norepeat_term"],
            ["--taste_dropout=0.25", "--taste_folds=2", "--nocopy"],
        ]
    )
    assert now == former != Config()
    child = run("--weight_decay=0.1")
    assert child.returncode == 2 and "weight_decay was removed" in child.stderr and "0.01" in child.stderr


NOT_FINITE = [("learning_rate", "inf"), ("vector_loss_weight", "nan"), ("window_days", "inf"), ("dropout", "-inf")]


@pytest.mark.parametrize(
    "line, said",
    [
        ("--dimm=32", "dimm"),
        ("--dim=wide", "wide"),
        ("--loss=hinge", "hinge"),
        ("--num_interests=-1", "--num_interests=-1: expected at least 0"),
        ("--seed=13", "seed 13 is unlucky"),
        ("--seed=4294967296", "--seed=4294967296: expected at most"),
        *((f"--{name}={value}", f"--{name}={value}: expected a finite number") for name, value in NOT_FINITE),
        *((f"--{name}=", f"--{name}=: it is empty") for name in ("run_dir", "user_column", "timestamp_column")),
        ("--in_context=maybe", "--in_context=maybe: expected true or false"),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2(tmp_path, line, said):
    child = run(flagfile(tmp_path, "--epochs=1", line))
    error = [text for text in child.stderr.splitlines() if text.startswith("error: ")]
    assert child.returncode == 2 and len(error) == 1 and said in error[0], child.stderr
    assert "Traceback" not in child.stderr and child.stdout == ""


def test_a_missing_flagfile_and_a_stray_word_are_named():
    child = run("--flagfile=nowhere.flags")
    assert child.returncode == 2 and "nowhere.flags" in child.stderr and "Traceback" not in child.stderr
    child = run("train")
    assert child.returncode == 2 and "unexpected argument 'train'" in child.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"--run_dir=caf\xe9\n", "cannot be read as UTF-8 text"),
        (b"\x08\x01\xb8\xff", "cannot be read as UTF-8 text"),
        (b"hello\n", "unexpected argument 'hello'"),
        (None, "Is a directory"),
    ],
)
def test_a_flagfile_that_is_none_is_one_line(tmp_path, content, said):
    path = tmp_path / "my.flags"
    path.mkdir() if content is None else path.write_bytes(content)
    child = run(f"--flagfile={path}")
    assert child.returncode == 2 and said in child.stderr and "Traceback" not in child.stderr
    assert sum(line.startswith("error: ") for line in child.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "flag"),
    [("refresh", "max_retired"), ("serve", "shutdown_grace_seconds"), ("serving.load_test", "rate")],
)
def test_no_command_takes_what_is_no_number(module, flag):
    needed = ["--items=x.csv"] if module == "refresh" else []
    child = run(f"--{flag}=nan", *needed, command=("-m", f"longretriever_tf.{module}"))
    assert child.returncode == 2 and "Traceback" not in child.stderr
    assert f"--{flag}=nan: expected a finite number" in child.stderr


def run_shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    """A line of bash in which $COMMAND stands for the command above; the status is that of the command."""
    command = shlex.join([sys.executable, "-c", COMMAND])
    line = f"set -o pipefail; {line.replace('$COMMAND', command)}"
    return subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("what", ["", "--help", "--helpfull"])
def test_a_reader_that_leaves_is_no_error(what):
    child = run_shell(f"$COMMAND {what} | true")
    assert child.stderr == "" and child.returncode in (0, 141)  # 0: all was written before the reader left


def test_closed_output_is_no_error():
    for line in ("$COMMAND >&-", "$COMMAND 2>&-", "$COMMAND >&- 2>&-"):
        child = run_shell(line)
        assert child.returncode == 0 and child.stderr == "", line
    assert run_shell("$COMMAND --seed=13 >&- 2>&-").returncode == 2


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"COLUMNS": "1"}],
)
def test_names_in_any_script_are_printed_whatever_the_terminal_can_show(environment):
    child = run_shell("$COMMAND --run_dir='läufe/お茶' --in_context=nö", **environment)
    assert (
        child.returncode == 2
        and child.stderr.startswith("error: flag --in_context=n")
        and "Traceback" not in child.stderr
    )
    child = run_shell("$COMMAND --item_column='お茶'", **environment)
    assert child.returncode == 0 and child.stderr == "" and json.loads(child.stdout)["data"]["item_column"]


def test_help_opens_with_eight_flags_and_leaves_the_hidden_to_helpfull():
    shown, full = (run(asked, command=("-m", "longretriever_tf.train")).stdout for asked in ("--help", "--helpfull"))
    first = shown[shown.index("The flags that most people need:") :].split("\n\n")[0]
    named = re.findall(r"^  --(?:\[no\])?(\w+):", first, re.M)
    assert named == ["recipe", "dataset", "events", "items", "context", "cut", "model", "run_dir"]
    fields = [
        field
        for section in dataclasses.fields(Config)
        if section.name != "index"
        for field in dataclasses.fields(section.type)
    ]
    hidden = {field.name for field in fields if field.metadata["hidden"]}
    assert f"--helpfull lists {len(hidden)} more" in shown and 10 < len(hidden) < 30
    for field in fields:
        lines = [f"  --{field.name}:", f"  --[no]{field.name}:"]
        assert any(line in full for line in lines)
        assert any(line in shown for line in lines) != (field.name in hidden), field.name


def test_help_of_a_command_has_its_own_flags_and_its_sections():
    shown = run("-h", command=("-m", "longretriever_tf.export")).stdout
    groups = re.findall(r"^([A-Z][^\n]*):$", shown, re.M)
    assert groups == ["Of this command", "Retrieval", "Index"] and "--export_dir:" in shown


def test_train_refuses_an_unknown_flag_before_it_loads_anything(tmp_path):
    child = run(flagfile(tmp_path, "--batchsize=5"), command=("-m", "longretriever_tf.train"))
    assert child.returncode == 2 and "batchsize" in child.stderr and "Traceback" not in child.stderr


ABLATIONS = sorted((ROOT / "configs" / "ablations").glob("*.flags"))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_changes_the_recipe_as_its_file_says(path):
    text, given = path.read_text(), f"--flagfile={path.relative_to(ROOT)}"
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert given in text and max(map(len, text.splitlines())) <= 120
    if f"train {given}" not in text:  # asks a finished run in another way: evaluate takes every flag
        child = run(given, "--run_dir=nowhere", command=("-m", "longretriever_tf.evaluate"))
        assert child.returncode == 2 and "'nowhere' is not a run directory" in child.stderr, child.stderr
        return
    assert lines[0] in ("--flagfile=configs/complete_journey.flags", "--flagfile=configs/demo.flags")
    assert lines[1] == "--cut=validation"
    made = json.loads(run(given).stdout)
    recipe = json.loads(run(*lines[:2]).stdout)
    changed = {key for section in made for key, value in made[section].items() if value != recipe[section][key]}
    assert changed == {line.removeprefix("--no").removeprefix("--").partition("=")[0] for line in lines[2:]}


def test_there_are_ablations():
    assert len(ABLATIONS) >= 10


@pytest.mark.parametrize(
    ("module", "asked"),
    [("train", "--help"), ("export", "-h"), ("inspect_log", "--helpfull"), ("serving.load_test", "--help=true")],
)
def test_help_is_no_failure(module, asked):
    """It is printed by code that all commands share."""
    child = run(asked, command=("-m", f"longretriever_tf.{module}"))
    assert child.returncode == 0 and child.stderr == ""
    assert len(child.stdout.splitlines()) > 20
