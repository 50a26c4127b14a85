r"""Makes categories for a catalogue that has none, or poor ones: asks a language model of your choice.

  longretriever contexts --items=items.parquet --text_columns=title,description \
    --endpoint=http://localhost:8000/v1 --model=NAME --output=items_with_context.parquet --yes

Asks any endpoint of the OpenAI form (a local server or a provider) for a taxonomy from a sample of the items' texts,
then for the category of each distinct text, in batches. --output is the items table with the new column; next to it lie
the taxonomy, a line a category, and a page that compares the column with the one of --context. Then:

  longretriever train --items=items_with_context.parquet --context=context ...

Without --yes it prints what it would ask, in tokens and money, and sends nothing. Answers are kept in --cache by their
content: a command that was stopped goes on where it stood, and a rerun asks nothing. Answers outside the taxonomy, two
for one item and other malformed ones are asked again, and at last replaced by the category of the nearest text.
The texts of your items go to the endpoint; nothing of users or events does. How good such categories are for retrieval
is unmeasured here: compare `evaluate --split=validation` of both (docs/contexts.md).
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError, require
from longretriever_tf.common.extras import needs_extra
from longretriever_tf.common.files import explain_os_errors, require_output, write_text_atomically
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.common.progress import stage
from longretriever_tf.config import flags

if TYPE_CHECKING:
    from longretriever_tf.labelling.chat import Chat
    from longretriever_tf.labelling.costs import Prices
    from longretriever_tf.labelling.items_file import ItemsFile
    from longretriever_tf.labelling.label import Labeller, Settings

flags.define_config_flags("data")
_OUTPUT = absl_flags.DEFINE_string("output", "", "The items table to write, with the new column: .parquet or .csv.")
_COLUMN = absl_flags.DEFINE_string("column", "context", "Name of the new column.")
_REPORT = absl_flags.DEFINE_string("report", "", "The page to write; empty: the name of --output with .html after it.")
_ENDPOINT = absl_flags.DEFINE_string(
    "endpoint", "", "Base URL of an OpenAI-compatible chat endpoint, such as http://localhost:8000/v1."
)
_MODEL = absl_flags.DEFINE_string("model", "", "The model's name at the endpoint.")
_KEY_VARIABLE = absl_flags.DEFINE_string(
    "key_variable",
    "OPENAI_API_KEY",
    "Environment variable that holds the endpoint's key; no key is sent if it is unset.",
)
_REQUEST_OPTIONS = absl_flags.DEFINE_string(
    "request_options",
    '{"temperature": 0}',
    "JSON object of further fields of every request; {} for a model that takes no temperature.",
)
_YES = absl_flags.DEFINE_bool("yes", False, "Send the questions. Without it they are counted and nothing is sent.")
_INPUT_PRICE = absl_flags.DEFINE_float("input_price", None, "Price of a million tokens in.", lower_bound=0)
_OUTPUT_PRICE = absl_flags.DEFINE_float("output_price", None, "Price of a million tokens out.", lower_bound=0)
_NUM_CATEGORIES = absl_flags.DEFINE_integer(
    "num_categories", 100, "About how many categories to ask for.", lower_bound=2, upper_bound=2000
)
_ABOUT = absl_flags.DEFINE_string("about", "", "What the catalogue is, in a few words for the model: groceries of ...")
_TAXONOMY = absl_flags.DEFINE_string(
    "taxonomy",
    "",
    "File of the categories, one a line: it is taken as it is, and none is asked for. Give the file of an earlier run "
    "when the catalogue has grown: then new texts alone are asked about.",
)
_SAMPLE = absl_flags.DEFINE_integer("sample", 500, "Texts that the taxonomy is made from.", lower_bound=2)
_BATCH = absl_flags.DEFINE_integer("batch", 40, "Texts of one question.", lower_bound=1, upper_bound=500)
_MAX_TEXT = absl_flags.DEFINE_integer("max_text", 300, "Characters of an item's text that are sent.", lower_bound=1)
_ATTEMPTS = absl_flags.DEFINE_integer(
    "attempts", 3, "How often a question is asked whose answer cannot be used.", lower_bound=1
)
_PARALLEL = absl_flags.DEFINE_integer("parallel", 4, "Questions at a time.", lower_bound=1, upper_bound=64)
_TIMEOUT = absl_flags.DEFINE_float("timeout", 60.0, "Seconds to wait for an answer.", lower_bound=0.01)
_RETRIES = absl_flags.DEFINE_integer(
    "retries", 6, "How often a question is sent again after a timeout, 429 or 5xx, with growing pauses.", lower_bound=0
)
_BACKOFF = absl_flags.DEFINE_float("backoff", 1.0, "Seconds of the first of these pauses.", lower_bound=0)
_CACHE = absl_flags.DEFINE_string(
    "cache", "", "Directory of what was answered; empty: the name of --output with .answers after it."
)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    from longretriever_tf.common.text import code_text
    from longretriever_tf.labelling.cache import AnswerCache
    from longretriever_tf.labelling.items_file import read_items_file, require_new_column, require_output_kind

    with needs_extra("`contexts`", "client", "urllib3"):
        from longretriever_tf.labelling.label import Labeller, Settings

    output = _OUTPUT.value
    require(bool(output), "--output is missing: name the items table to write (.parquet or .csv)")
    require(bool(_MODEL.value), "--model is missing: name a model of the endpoint")
    require(bool(_COLUMN.value.strip()), "--column is empty: name the new column")
    options = _request_options()
    require_output_kind(output)
    data = flags.data_from_flags()
    _require_places(data.items)
    key = _read_key()
    with stage("reading the items"):
        items = read_items_file(data, _MAX_TEXT.value)
    require_new_column(items, _COLUMN.value)
    settings = Settings(
        _MODEL.value, _ABOUT.value, _NUM_CATEGORIES.value, _SAMPLE.value, _BATCH.value, _ATTEMPTS.value, _PARALLEL.value
    )
    cache_dir = _CACHE.value or f"{output}.answers"
    with explain_os_errors(f"cannot make the cache {cache_dir!r}"):
        os.makedirs(cache_dir, exist_ok=True)
    with hold_lock(cache_dir, f"{cache_dir!r} is in use by another process ({{}}): wait, or name another --cache"):
        texts = items.text[items.text != ""]
        labeller = Labeller(code_text(texts)[0], settings, AnswerCache(cache_dir))
        taxonomy = _read_taxonomy() if _TAXONOMY.value else labeller.known_taxonomy()
        if _announce(labeller, taxonomy):
            if not _YES.value:
                print("nothing was sent: add --yes to send the questions")
                return
            _require_endpoint()
        _label(items, labeller, settings, taxonomy, _chat(options, key))


def _label(
    items: "ItemsFile",
    labeller: "Labeller",
    settings: "Settings",
    taxonomy: list[str] | None,
    chat: "Chat",
) -> None:
    """Asks what is left to ask and writes table, taxonomy and page."""
    from longretriever_tf.common.text import as_text
    from longretriever_tf.labelling.compare import compare
    from longretriever_tf.labelling.items_file import write_items_file
    from longretriever_tf.labelling.questions import OTHER
    from longretriever_tf.labelling.report import make_report, write_report

    if taxonomy is None:
        with stage("asking for the taxonomy"):
            taxonomy = labeller.ask_taxonomy(chat)
    output, column = _OUTPUT.value, _COLUMN.value
    taxonomy_path, page = f"{output}.taxonomy.txt", _report_path()
    write_text_atomically(taxonomy_path, "\n".join(taxonomy) + "\n")
    labels = labeller.assign(taxonomy, chat)
    name_of = dict(zip(labeller.texts.tolist(), labels.name.tolist(), strict=True))
    values = as_text(name_of.get(text, OTHER) for text in items.text.tolist())
    write_items_file(items, column, values, output)
    counts = len(values), len(labels.name), int(labels.is_placed.sum())
    comparison = compare(items.old, (column, values), items.text)
    write_report(make_report(output, comparison, settings, labeller.spent, _prices(), counts), page)
    agreement = (
        ""
        if comparison.agreement is None
        else (f", normalised mutual information with {comparison.old_column}: {comparison.agreement:.3f}")
    )
    print(
        f"{output}: {len(values):,} items in {comparison.new.categories:,} categories, {counts[2]:,} of {counts[1]:,} "
        f"texts placed by their nearest{agreement}"
    )
    print(f"written: {output}, {taxonomy_path}, {page}", file=sys.stderr)


def _announce(labeller: "Labeller", taxonomy: list[str] | None) -> bool:
    """Prints what is to be asked; whether anything is."""
    estimate = labeller.estimate(taxonomy)
    what = "the taxonomy and the categories" if taxonomy is None else "the categories"
    if not estimate.requests:
        print(f"all {len(labeller.texts):,} texts were answered before: nothing to ask")
        return False
    print(f"to ask for {what} of {len(labeller.texts):,} texts: {estimate.describe(_prices())}", flush=True)
    print("(tokens by the length of the texts; answers that must be asked again come on top)", flush=True)
    return True


def _report_path() -> str:
    return _REPORT.value or f"{_OUTPUT.value}.html"


def _require_places(items: str) -> None:
    """Refuses files that cannot be written, or that would take the place of another, before anything is paid for."""
    require_output(_OUTPUT.value)
    require_output(_report_path())
    taken = {"--items": items, "--taxonomy": _TAXONOMY.value}
    for flag, path in (("--output", _OUTPUT.value), ("--report", _report_path())):
        for name, other in taken.items():
            same = bool(other) and os.path.realpath(path) == os.path.realpath(other)
            require(not same, f"{flag}={path} is {name}: name another file")
        taken[flag] = path


def _read_key() -> str:
    """The endpoint's key without the white space around it that files of keys end with; "" for none."""
    key = os.environ.get(_KEY_VARIABLE.value, "").strip()
    # What a header cannot hold is refused here: the HTTP client's own error would show the key.
    require(
        all("!" <= letter <= "~" for letter in key),
        f"--key_variable={_KEY_VARIABLE.value}: its value holds white space or letters beyond ASCII, which no key has",
    )
    return key


def _chat(options: dict[str, object], key: str) -> "Chat":
    from longretriever_tf.labelling.chat import Chat

    return Chat(_ENDPOINT.value, _MODEL.value, key, options, _TIMEOUT.value, _RETRIES.value, _BACKOFF.value)


def _require_endpoint() -> None:
    """Refuses an endpoint that is no URL."""
    require(bool(_ENDPOINT.value), "--endpoint is missing: the base URL of a chat endpoint, http://localhost:8000/v1")
    require(
        _ENDPOINT.value.startswith(("http://", "https://")),
        f"--endpoint={_ENDPOINT.value}: expected a URL that begins with http:// or https://",
    )
    require(
        not set("@?#") & set(_ENDPOINT.value),
        "--endpoint: expected a base URL without a user, a query or a fragment; a key belongs into the environment "
        "variable that --key_variable names",
    )


def _request_options() -> dict[str, object]:
    """--request_options as an object."""
    try:
        options = json.loads(_REQUEST_OPTIONS.value)
    except ValueError:
        options = None
    if not isinstance(options, dict) or {"model", "messages", "stream"} & set(options):
        raise UserError(
            f"--request_options={_REQUEST_OPTIONS.value}: expected a JSON object without model, messages and stream, "
            'such as {"temperature": 0}'
        )
    return options


def _read_taxonomy() -> list[str]:
    """The categories of --taxonomy."""
    from longretriever_tf.labelling.questions import Malformed, check_taxonomy

    path = _TAXONOMY.value
    try:
        with explain_os_errors(f"--taxonomy={path} cannot be read"), open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
        return check_taxonomy([line for line in lines if line])
    except (Malformed, UnicodeDecodeError) as error:
        raise UserError(f"--taxonomy={path}: {error}; expected UTF-8 text, a category a line") from error


def _prices() -> "Prices":
    from longretriever_tf.labelling.costs import Prices

    return Prices(_INPUT_PRICE.value, _OUTPUT_PRICE.value)


if __name__ == "__main__":
    flags.run_command(main)
