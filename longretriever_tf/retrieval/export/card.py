"""A model card next to an export's versions, in the form of Hugging Face's: README.md with a YAML header.

Every metric in it comes from the run's own metrics.json; a run without one gets a card that says so.
"""

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np

from longretriever_tf import __version__
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_damage, read_json_object, write_text_atomically
from longretriever_tf.config.config import Config, load_config
from longretriever_tf.config.former import to_present
from longretriever_tf.datasets.log_identity import read_identity
from longretriever_tf.retrieval.export.publish import Published
from longretriever_tf.retrieval.sharding.shards_file import SHARDS_FILE

CARD_FILE = "README.md"
_METRICS = (
    ("all", "recall@100", "recall@100, all items"),
    ("all", "ndcg@100", "NDCG@100, all items"),
    ("novel", "recall@100", "recall@100, novel items"),
    ("within_category", "recall@20", "recall@20 within the item's category"),
)
_CURE = "let `evaluate` write it again, or leave --card out"
_SAME = ("data", "model", "train", "baseline")
_NOT_LEARNED = ("run_dir", "data_dir", "max_memory_gb")
"""What `evaluate` sets otherwise than the training did."""


def read_results(run_dir: str, config: Config) -> dict[str, Any] | None:
    """What the card says of the run's own evaluation, `metrics.json` in its directory; None where there is none.

    Args:
      run_dir: of the run.
      config: of the export, whose requests may have other settings than those that were evaluated.

    Raises:
      UserError: metrics.json is torn, or of another run.
    """
    path = os.path.join(run_dir, "metrics.json")
    if not os.path.exists(path):
        return None
    metrics = read_json_object(path, _CURE)
    with explain_damage(path, _CURE):
        _require_of_run(path, metrics, load_config(run_dir))
        row, first = next(iter(metrics["models"].items()))
        notes = []
        evaluated = {**vars(config.retrieval), **to_present(metrics["config"]["retrieval"], path)}
        for name, value in vars(config.retrieval).items():
            if evaluated[name] != value:
                notes.append(f"Evaluated with {name} = {evaluated[name]}; this export has {name} = {value} by default.")
        part = metrics.get("max_users")
        return {
            "split": str(metrics["split"]),
            "row": row,
            "users": f"{metrics['num_users']:,}",
            "pairs": f"{metrics['num_pairs']:,}",
            "part": f"; the first {part:,} users alone" if part else "",
            "date": str(metrics["date"]),
            "command": str(metrics["command"]),
            "commit": str(metrics.get("commit") or ""),
            "metrics": [
                {"type": f"{section}_{name}".replace("@", "_at_"), "name": label, "value": first[section][name]}
                for section, name, label in _METRICS
                if name in first.get(section, {})
            ],
            "best": _compare(metrics, row),
            "notes": notes,
        }


def _require_of_run(path: str, metrics: Mapping[str, Any], run: Config) -> None:
    """Refuses metrics of a run of other settings: a copied file, or one that --output sent here."""
    for section in _SAME:
        own, stored = vars(getattr(run, section)), to_present(metrics["config"][section], path)
        for name, value in stored.items():
            here = list(own[name]) if isinstance(own.get(name), tuple) else own.get(name)
            if name in own and name not in _NOT_LEARNED and here != value:
                raise UserError(
                    f"--card: {path} is of another run than {os.path.dirname(path)!r} (--{name}: {value!r} there, "
                    f"{here!r} here): evaluate this run again"
                )


def _compare(metrics: Mapping[str, Any], row: str) -> str:
    """A sentence on the best baseline, where the evaluation had some; its interval is the evaluation's own."""
    one = (metrics.get("differences") or {}).get(row, {}).get("all", {}).get("recall@100")
    if not one:
        return ""
    interval = f"95% interval {one['low']:+.4f} to {one['high']:+.4f}, paired bootstrap over users"
    return (
        f"Best baseline of that evaluation on recall@100, all items: {one['baseline']}; this model is "
        f"{one['mean']:+.4f} from it ({interval})."
    )


def write_card(published: Published, holds: str, export_dir: str, results: dict[str, Any] | None, license: str) -> str:
    """Writes `export_dir/README.md`, whole or not at all; returns its path.

    Args:
      published: the version.
      holds: a sentence on what it holds of the catalogue.
      export_dir: holds the versions.
      results: `read_results`.
      license: of the model, as Hugging Face names it.

    Raises:
      UserError: it cannot be written.
    """
    source, config = published.source, published.source.config
    name, corpus = os.path.basename(os.path.abspath(export_dir)), source.corpus
    identity = read_identity(config.train.run_dir)
    data = config.data.format or config.data.dataset
    size = f", {identity.num_users:,} users, {identity.num_events:,} events" if identity else ""
    items, is_sharded = corpus.item_id[2:4].tolist(), published.num_shards > 0
    serve = f"longretriever serve --model_name={shlex.quote(name)} --model_base_path=$PWD --rest_api_port=8501"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("longretriever_tf.retrieval.export", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown
    )
    environment.policies["json.dumps_function"] = _to_json
    text = environment.get_template("model_card.md.jinja").render(
        name=name,
        version=__version__,
        license=license,
        results=results,
        is_sharded=is_sharded,
        needs_scann=published.report.needs_scann,
        serve=[f"# serve the router and each shard as {SHARDS_FILE} says"] if is_sharded else [serve],
        url=SHARDS_FILE if is_sharded else "http://localhost:8501",
        example_items=items,
        example_times=[corpus.cut - 86_400 * days for days in (9, 2)][: len(items)],
        example_now=corpus.cut,
        profile=list(corpus.profile_values) if config.model.profile else [],
        event_features=list(corpus.event_values),
        cut=config.train.cut,
        data_type=data,
        data_name=f"{data} (log {identity.fingerprint[:12]}{size})" if identity else data,
        holds=holds[:1].upper() + holds[1:],
        facts=_facts(published, identity.describe() if identity else "not kept by the version that trained it", data),
    )
    path = os.path.join(export_dir, CARD_FILE)
    write_text_atomically(path, text.replace("\\\n", ""))
    return path


def _facts(published: Published, log: str, data: str) -> list[tuple[str, str]]:
    config, corpus = published.source.config, published.source.corpus
    model, train = config.model, config.train
    return [
        ("version", os.path.basename(published.directory)),
        ("log", f"{data}, {log}"),
        ("items, categories", f"{corpus.num_offered - 2:,}, {corpus.num_categories - 2:,} ({corpus.context})"),
        ("cut", f"--cut={train.cut}: {np.datetime64(corpus.cut, 's')} UTC"),
        ("model", f"--dim={model.dim}, --num_layers={model.num_layers}, --max_length={model.max_length} of a category"),
        ("training", f"--examples={train.examples}, --loss={train.loss}, --epochs={train.epochs}, --seed={train.seed}"),
        ("fingerprint", f"towers {published.fingerprint.towers}, items {published.fingerprint.items}"),
    ]


def _to_json(value: Any, **options: Any) -> str:
    """JSON is YAML; letters stay as they are."""
    options.pop("sort_keys", None)
    return json.dumps(value, ensure_ascii=False)
