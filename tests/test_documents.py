"""What the documents show a reader works: error messages of the data contract, README's own log from end to end."""

import pathlib
import re
import shlex

import pytest
from command_server import run_command
from documents import ROOT, commands, fences
from trained import write_tables
from worlds import block_world

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.splits import global_time_cuts


def test_error_messages_of_the_data_contract_are_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [fence.text for fence in fences(ROOT / "docs" / "data.md") if fence.language == "text"]
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
def test_the_readme_takes_a_newcomer_to_an_explained_list(tmp_path, monkeypatch):
    """README.md's flagfile and commands as they stand, on a small log with its names; only sizes are added."""
    log = block_world(num_users=31, num_items=61, events_per_user=41)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the processes that a command starts
    log.items.features["colour"] = log.items.features["brand"]
    write_tables(log, tmp_path)
    flagfile = next(fence.text for fence in fences(ROOT / "README.md") if fence.text.startswith("# my.flags"))
    flagfile = flagfile.replace("/data/orders.parquet", f"{tmp_path}/events.parquet")
    flagfile = flagfile.replace("/data/catalogue.parquet", f"{tmp_path}/items.parquet")
    (tmp_path / "my.flags").write_text(f"{flagfile}\n--data_dir={tmp_path}/tfds\n")
    (tmp_path / "tiny.flags").write_text(TINY)
    own, ran = {"--flagfile=my.flags", "--run_dir=runs/mine", "--export_dir=exports/mine"}, []
    for command, flags in commands(ROOT / "README.md"):
        if not own & set(flags) or command in ("refresh", "funnel"):
            continue
        flags = [flag.replace("--user=ID", "--user=1003") for flag in flags]
        if command == "train":
            flags.append("--flagfile=tiny.flags")
        line = ["-m", "longretriever_tf", command, *flags]
        done = run_command(line, tmp_path, 3600)
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
    assert ran == ["inspect_log", "train", "evaluate", "export", "sample_users", "recommend", "evaluate_baselines"]
