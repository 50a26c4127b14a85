"""What the documents say is so: links, commands, flags, names, figures, error messages."""

import ast
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from documents import all_documents, anchors, code, commands, fences, links, prose
from trained import ROOT, write_tables
from worlds import block_world

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.splits import global_time_cuts

DOCUMENTS = {str(path.relative_to(ROOT)): path for path in all_documents()}
OURS = [name for name in DOCUMENTS if not name.startswith("results/")]
PACKAGE = ROOT / "longretriever_tf"
FOREIGN = {"profile", "build"}
"""Flags of docker and docker compose."""
NOT_ABSL = {"doctor": {"help"}}
"""Commands that parse their flags otherwise."""


def test_documents_are_found():
    assert {"README.md", "docs/method.md", "docs/faq.md", "serving/README.md", "BUILD_NOTES.md"} <= set(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_anchors_resolve(name):
    broken = []
    for link in links(DOCUMENTS[name]):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (DOCUMENTS[name].parent / target) if target else DOCUMENTS[name]
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert not broken


@pytest.fixture(scope="module")
def flags_of() -> dict[str, dict[str, list[str] | None]]:
    """Flags of every command that some document names."""
    named = sorted({command for path in DOCUMENTS.values() for command, _ in commands(path)} - set(NOT_ABSL))
    missing = [name for name in named if not (PACKAGE / (name.replace(".", "/") + ".py")).exists()]
    missing = [name for name in missing if name != "NAME"]
    assert not missing, f"documents name commands that do not exist: {missing}"
    named = [name for name in named if name != "NAME"]
    done = subprocess.run(
        [sys.executable, "tests/flag_names.py", *named], cwd=ROOT, text=True, capture_output=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wrong_flags(written: list[str], known: dict[str, list[str] | None]) -> list[str]:
    """Flags that do not exist, and values that are no choice of theirs."""
    wrong = []
    for flag in written:
        name, _, value = flag.removeprefix("--").strip(".,:;)'\"").partition("=")
        choices = known.get(name)
        options = value.split("|") if re.fullmatch(r"[a-z_|]+", value) else []
        if name not in known and name not in ("help", "flagfile"):
            wrong.append(flag)
        elif choices and not set(options) <= set(choices):
            wrong.append(flag)
    return wrong


def test_wrong_flags_and_values_are_noticed():
    known = {"merge": ["raw", "quota"], "k": None}
    written = ["--merge=raw|quota", "--k=5", "--merge=best", "--nope", "--merge=raw|best"]
    assert wrong_flags(written, known) == ["--merge=best", "--nope", "--merge=raw|best"]
    assert (
        exists("datasets.splits.global_time_cuts")
        and exists("serving.client.client.Request")
        and exists("datasets.log")
    )
    assert not exists("datasets.splits.cut_by_time") and not exists("data.nowhere.cut")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_have_the_flags_that_documents_give_them(name, flags_of):
    for command, written in commands(DOCUMENTS[name]):
        if command != "NAME" and command not in NOT_ABSL:
            assert not wrong_flags(written, flags_of[command]), f"of {command}"


@pytest.mark.parametrize("name", [name for name in OURS if name != "CHANGELOG.md"])  # which tells of flags that went
def test_flags_named_alone_belong_to_some_command(name, flags_of):
    merged: dict[str, list[str] | None] = {}
    for known in flags_of.values():
        for flag, choices in known.items():
            old = merged.get(flag, [])
            merged[flag] = None if choices is None or old is None else sorted({*old, *choices})
    written = [
        flag
        for line in code(DOCUMENTS[name])
        if not re.search(r"docker|pip |pytest|kubectl|\.toml|tensorflow_model_server", line)
        for flag in re.findall(r"(?<![\w-])--[a-z][\w]*(?:=[^\s`,]+)?", line)
    ]
    assert not [flag for flag in wrong_flags(written, merged) if flag[2:] not in FOREIGN]


@pytest.mark.parametrize("name", OURS)
def test_make_targets_exist(name):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {
        target
        for line in code(DOCUMENTS[name])
        if line.startswith("make ")
        for target in re.findall(r"(?<=\s)[a-z][a-z-]*(?=\s|$)", line.partition("#")[0])
    }
    assert named <= targets, named - targets


@pytest.mark.parametrize("name", OURS)
def test_shell_blocks_are_run_or_say_why_not(name):
    """`<!-- run by tests/FILE.py -->`, which must name every command of the block, or `<!-- not run in CI: why -->`."""
    for fence in fences(DOCUMENTS[name]):
        if not fence.is_shell:
            continue
        mark = re.fullmatch(r"<!-- (?:not run in CI: (?P<why>.{5,})|run by (?P<test>tests/\w+\.py)) -->\n", fence.mark)
        assert mark, f"{fence.text!r} needs a mark on the line above it"
        if mark["test"]:
            test = (ROOT / mark["test"]).read_text(encoding="utf-8")
            for command in re.findall(r"python -m longretriever_tf\.([\w.]+)", fence.text):
                assert command in test or name in test, f"{mark['test']} does not run {command}"


@pytest.mark.parametrize("name", OURS)
def test_python_and_json_blocks_are_sound(name):
    for fence in fences(DOCUMENTS[name]):
        if fence.language == "json":
            json.loads(fence.text)
        if fence.language == "python" and ">>> " not in fence.text:
            for node in ast.walk(ast.parse(fence.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("longretriever_tf"):
                    for alias in node.names:
                        assert exists(f"{node.module}.{alias.name}".removeprefix("longretriever_tf."))
        for body in re.findall(r"-d '(\{.*?\})'", fence.text, re.S):
            assert json.loads(body)["inputs"]


def exists(dotted: str) -> bool:
    """Whether a name below the package is a module, or a top-level name (or a method) of one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:cut])
        if path.is_dir() and cut == len(parts):
            return True
        if path.with_suffix(".py").exists():
            return not parts[cut:] or parts[cut] in top_level_names(path.with_suffix(".py"))
    return False


def top_level_names(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


FOLDERS = "|".join(sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"))
NAME = re.compile(rf"(?:longretriever_tf\.)?((?:{FOLDERS}|config|errors|schema)\.[A-Za-z_]\w*(?:\.\w+)*)")


@pytest.mark.parametrize("name", OURS)
def test_names_of_the_code_exist(name):
    spans = [span for span in re.findall(r"`([^`\n]+)`", prose(DOCUMENTS[name])) if NAME.fullmatch(span)]
    missing = [span for span in spans if not exists(NAME.fullmatch(span)[1])]
    assert not [span for span in missing if not span.endswith((".json", ".npz", ".toml", ".py", ".config"))]


@pytest.mark.parametrize("name", OURS)
def test_named_files_exist(name):
    text = DOCUMENTS[name].read_text(encoding="utf-8")
    folders, endings = "results|configs|tests|benchmarks|serving", "json|toml|flags|py|md|yaml|sh"
    named = re.findall(rf"(?<![\w/.])(?:{folders})/[\w/]+\.(?:{endings})", text)
    written_by_it = set(re.findall(r"--output=(\S+?)[`\s)]", text))
    assert not [path for path in named if not (ROOT / path).exists() and path not in written_by_it]


LABELS = {
    "**LongRetriever** (every category searched), 3 seeds": ("longretriever_seed?", "longretriever"),
    "LongRetriever, 20 interests a request, 3 seeds": ("longretriever_seed?", "longretriever, 20 of top 20"),
    "LongRetriever, paper's serving (5 random of top 20, in turn), 3 seeds": (
        "longretriever_seed?",
        "longretriever, paper serving",
    ),
    "LongRetriever as the paper's text has it": ("paper_seed1", "longretriever, 5 of top 20"),
    "EASE + own items": ("beside_baselines_seed1", "EASE + own items"),
    "TIFU-kNN": ("beside_baselines_seed1", "TIFU-kNN"),
    "the user's own items (180-day decay)": ("beside_baselines_seed1", "own items"),
    "EASE": ("beside_baselines_seed1", "EASE"),
    "ItemKNN": ("beside_baselines_seed1", "ItemKNN"),
    "two-tower, last 50 events, 3 seeds": ("two_tower_50_seed?", "two_tower, last 50 events"),
    "two-tower, last 200 events, 3 seeds": ("two_tower_200_seed?", "two_tower, last 200 events"),
    "ComiRec-SA, 3 seeds": ("comirec_seed?", "comirec"),
    "MIND, 3 seeds": ("mind_seed?", "mind"),
    "popularity in the user's categories": ("beside_baselines_seed1", "category popularity"),
    "popularity (30-day decay)": ("beside_baselines_seed1", "popularity"),
    "every category searched": ("longretriever_seed?", "longretriever"),
    "every category, calibrated": ("longretriever_seed?", "longretriever"),
    "20 interests a request": ("longretriever_seed?", "longretriever, 20 of top 20"),
    "20 interests of the top 20": ("longretriever_seed?", "longretriever, 20 of top 20"),
    "5 drawn from the top 20, in turn (the paper)": ("longretriever_seed?", "longretriever, paper serving"),
    "best baseline, all items: EASE + own items": ("beside_baselines_seed1", "EASE + own items"),
    "most popular": ("beside_baselines_seed1", "popularity"),
    "all 302 categories, calibrated": ("variants_validation_seed1", "longretriever"),
    **{f"the best {n}": ("variants_validation_seed1", f"N={n}, M={n}") for n in (5, 10, 20, 40, 60)},
    "20 drawn from the best 60": ("variants_validation_seed1", "N=20, M=60"),
    "the best 20, quota": ("variants_validation_seed1", "merge=quota"),
    "the best 20, raw": ("variants_validation_seed1", "merge=raw"),
    "the best 20, in turn": ("variants_validation_seed1", "merge=round_robin"),
    "the best 20 by eq. 3 instead of the learned score, calibrated": ("variants_validation_seed1", "eq. 3, N=20, M=20"),
}
"""Lines of tables of figures: the files below the results that the table names, and the model there."""
FIGURES = (
    ("all", "recall@100"),
    ("novel", "recall@100"),
    ("within_category", "recall@20"),
    ("all", "item_coverage@100"),
)


@pytest.mark.parametrize("name", ["README.md", "docs/model_card.md", "docs/tuning.md"])
def test_figures_are_those_of_the_results(name):
    text = DOCUMENTS[name].read_text(encoding="utf-8")
    tables = re.findall(r"<!-- (?:RESULTS|FIGURES (\S+)) -->(.*?)<!-- /(?:RESULTS|FIGURES) -->", text, re.S)
    lines = [
        (folder or "results/complete_journey", line)
        for folder, table in tables
        for line in table.splitlines()
        if re.match(r"\|.*\| [*]*0\.\d", line)
    ]
    assert lines
    for folder, line in lines:
        label, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        files, model = LABELS[label]
        paths = sorted((ROOT / folder).glob(f"{files}.json"))
        sections = [json.loads(path.read_text(encoding="utf-8"))["models"][model] for path in paths]
        for cell, (section, metric) in zip(cells, FIGURES, strict=False):
            if cell:
                mean = sum(one[section][metric] for one in sections) / len(sections)
                assert abs(float(cell.strip("*")) - mean) <= 0.00051, (label, section, metric, mean)


def test_error_messages_of_the_data_contract_are_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [fence.text for fence in fences(DOCUMENTS["docs/data.md"]) if fence.language == "text"]
    wanted = [line.removeprefix("error: ") for line in block.splitlines()]
    tables = (
        "customer,item_id,timestamp,category\n1,7,1511000000,tea\n",
        "user_id,item_id,timestamp,category\n1,7,1511000000000,tea\n1,7,1511000001000,tea\n2,7,1511000002000,tea\n",
        "user_id,item_id,timestamp,category\n1,7,1511000000,tea\n1,8,1511000001,tea\n2,7,1511000002,coffee\n",
        "user_id,item_id,timestamp,category\n1,7,1511000000,tea\n1,8,1511200000,tea\n",
    )
    said = []
    for table in tables:
        pathlib.Path("log.csv").write_text(table)
        with pytest.raises(UserError) as error:
            global_time_cuts(read_event_log(DataConfig(dataset="event_log", events="log.csv")).timestamp, 28)
        said.append(str(error.value))
    assert said == wanted


TINY = """--recipe=compact
--num_snapshots=3
--max_logits=600
--batch_size=32
--dim=16
--num_heads=2
--ff_dim=32
--svd_dim=8
"""


@pytest.mark.slow
def test_the_readme_takes_a_newcomer_to_an_explained_list(tmp_path):
    """README.md's flagfile and commands as they stand, on a small log with its names; only sizes are added."""
    log = block_world(num_users=31, num_items=61, events_per_user=41)
    log.items.features["colour"] = log.items.features["brand"]
    write_tables(log, tmp_path)
    flagfile = next(fence.text for fence in fences(DOCUMENTS["README.md"]) if fence.text.startswith("# my.flags"))
    flagfile = flagfile.replace("/data/orders.parquet", f"{tmp_path}/events.parquet")
    flagfile = flagfile.replace("/data/catalogue.parquet", f"{tmp_path}/items.parquet")
    (tmp_path / "my.flags").write_text(f"{flagfile}\n--data_dir={tmp_path}/tfds\n")
    (tmp_path / "tiny.flags").write_text(TINY)
    own, ran = {"--flagfile=my.flags", "--run_dir=runs/mine", "--export_dir=exports/mine"}, []
    for command, flags in commands(DOCUMENTS["README.md"]):
        if not own & set(flags) or command in ("refresh", "funnel"):
            continue
        flags = [flag.replace("--user=ID", "--user=1003") for flag in flags]
        if command == "train":
            flags.append("--flagfile=tiny.flags")
        line = [sys.executable, "-m", f"longretriever_tf.{command}", *flags]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, cwd=tmp_path, text=True, capture_output=True, timeout=3600, env=env)
        assert done.returncode == 0, f"{shlex.join(line)}\n{done.stderr}"
        ran.append(command)
        if command == "evaluate":
            table = done.stdout[: done.stdout.index("written: ")].splitlines()
            assert max(len(line) for line in table if "--" not in line) <= 80
            assert re.search(r"^all recall@100 .*[+-]0\.\d{4} \[-?0\.\d{4}, -?0\.\d{4}\]", done.stdout, re.M)
    for path in (
        "runs/mine/training.png",
        "runs/mine/metrics.png",
        "runs/inspect/life.png",
        "exports/mine/1/saved_model.pb",
    ):
        assert (tmp_path / path).exists(), path
    assert ran == ["inspect_log", "train", "evaluate", "evaluate_baselines", "export", "recommend"]
