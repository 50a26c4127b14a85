"""`export --card`: the card parses as Hugging Face's, holds the run's own metrics or none, and its example runs."""

import dataclasses
import json
import pathlib
import re
import shutil

import pytest
import yaml
from serving_clients import serving
from trained import run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import load_config
from longretriever_tf.retrieval.export.card import read_results
from longretriever_tf.serving.server import config_files


@pytest.fixture(scope="module")
def carded(trained, tmp_path_factory):
    """A copy of the run that was evaluated, and its export with a card: run, export, what was printed."""
    base = tmp_path_factory.mktemp("carded")
    run_dir, export_dir = shutil.copytree(trained.run_dir, base / "run"), base / "groceries"
    evaluated = run_module("evaluate", f"--run_dir={run_dir}", "--max_users=40", "--noplots")
    assert evaluated.returncode == 0, evaluated.stderr
    done = run_module(
        "export",
        f"--run_dir={run_dir}",
        f"--export_dir={export_dir}",
        "--nocheck",
        "--card",
        "--card_license=mit",
    )
    assert done.returncode == 0, done.stderr
    return run_dir, export_dir, done.stdout


def header_of(text: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.S)[1])


def test_the_card_holds_the_metrics_of_metrics_json(carded):
    run_dir, export_dir, said = carded
    assert f"card: {export_dir}/README.md" in said
    text = (export_dir / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    row, first = next(iter(metrics["models"].items()))
    header = header_of(text)
    assert header["license"] == "mit" and header["library_name"] == "longretriever_tf"
    (entry,) = header["model-index"]
    (result,) = entry["results"]
    values = {one["type"]: one["value"] for one in result["metrics"]}
    assert entry["name"] == "groceries" and result["dataset"]["split"] == "validation"
    assert values == {
        "all_recall_at_100": first["all"]["recall@100"],
        "all_ndcg_at_100": first["all"]["ndcg@100"],
        "novel_recall_at_100": first["novel"]["recall@100"],
        "within_category_recall_at_20": first["within_category"]["recall@20"],
    }
    assert f'row "{row}"' in text and "the first 40 users alone" in text and metrics["command"] in text
    best = metrics["differences"][row]["all"]["recall@100"]
    assert f"{best['baseline']}; this model is {best['mean']:+.4f} from it" in text
    assert "53 users" in text and "also guided the training" in text and "{{" not in text and "\\\n" not in text


def test_hugging_face_reads_the_card(carded):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, of the extra dev")
    _, export_dir, _ = carded
    card = hub.ModelCard.load(export_dir / "README.md")
    assert card.data.library_name == "longretriever_tf" and "candidate-retrieval" in card.data.tags
    assert {one.metric_type for one in card.data.eval_results} >= {"all_recall_at_100", "novel_recall_at_100"}
    assert {one.task_type for one in card.data.eval_results} == {"candidate-retrieval"}


def test_the_example_of_the_card_runs(carded):
    _, export_dir, _ = carded
    text = (export_dir / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    with serving(config_files.one_model("groceries", str(export_dir)), warm=False) as server:
        scope = {}
        exec(code.replace("http://localhost:8501", f"http://localhost:{server.rest_port}"), scope)  # noqa: S102
    assert len(scope["answer"].candidates) == 5


def test_a_run_that_was_not_evaluated_gets_a_card_without_metrics(trained, tmp_path):
    run_dir = shutil.copytree(trained.run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("metrics*"))
    flags = (f"--run_dir={run_dir}", f"--export_dir={tmp_path}/out", "--nocheck", "--card")
    done = run_module("export", *flags)
    assert done.returncode == 0, done.stderr
    text = pathlib.Path(tmp_path, "out/README.md").read_text(encoding="utf-8")
    assert "model-index" not in header_of(text) and header_of(text)["license"] == "other"
    assert "This run was not evaluated" in text


def test_metrics_of_another_run_are_refused_and_other_requests_are_named(carded, tmp_path):
    run_dir, _, _ = carded
    copy = shutil.copytree(run_dir, tmp_path / "run")
    config = load_config(str(copy))
    notes = read_results(str(copy), config)["notes"]
    assert notes == []
    other = dataclasses.replace(config, retrieval=dataclasses.replace(config.retrieval, num_interests=3))
    (note,) = read_results(str(copy), other)["notes"]
    assert note == "Evaluated with num_interests = 5; this export has num_interests = 3 by default."
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["config"]["train"]["seed"] = 77
    (copy / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="--card: .*of another run.*--seed: 77 there, 1 here.*evaluate this run again"):
        read_results(str(copy), config)
    (copy / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="metrics.json is not JSON.*leave --card out"):
        read_results(str(copy), config)
