"""The two questions, word by word, and what an answer must hold to. Imports no TensorFlow."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from longretriever_tf.labelling.chat import Messages

OTHER = "Other"
"""The category of what fits no other; every taxonomy has it."""

VERSION = 1
"""Of the questions: answers to others are not taken from the cache."""

_MAX_NAME = 80
_FENCE = re.compile(r"^```\w*\s*|\s*```$")

_MAKE = (
    "You sort the items of a catalogue into categories for a recommender system{about}. The user sends a sample of the "
    "items. Propose about {number} categories for the whole catalogue: mutually exclusive, so that each item belongs "
    "to exactly one; of similar size, as far as the items allow; by what an item is or is for, not by brand, size or "
    "price. Names are short (one to four words), in the language of the items, and no two mean the same. Answer with "
    'JSON alone: {{"categories": ["...", "..."]}}'
)
_ASSIGN = (
    "You sort the items of a catalogue into fixed categories{about}. The user sends items by number. Give each exactly "
    'one category of the list, by its exact name; "{other}" only where none fits. Answer with JSON alone, an object '
    'from every number to a name: {{"1": "...", "2": "..."}}\nCategories:\n{names}'
)


class Malformed(Exception):
    """An answer that is not what was asked for; its words tell the model so."""


def ask_taxonomy(texts: Sequence[str], number: int, about: str) -> Messages:
    """The question for the categories.

    Args:
      texts: the sample.
      number: about how many categories.
      about: what the catalogue is, in a few words; "" for nothing.
    """
    return [
        {"role": "system", "content": _MAKE.format(about=_about(about), number=number)},
        {"role": "user", "content": "\n".join(f"- {_line(text)}" for text in texts)},
    ]


def ask_categories(texts: Sequence[str], names: Sequence[str], about: str) -> Messages:
    """The question for the categories of some items, which are numbered from 1."""
    listed = "\n".join(f"- {name}" for name in names)
    return [
        {"role": "system", "content": _ASSIGN.format(about=_about(about), other=OTHER, names=listed)},
        {"role": "user", "content": "\n".join(f"{n}: {_line(text)}" for n, text in enumerate(texts, 1))},
    ]


def ask_again(messages: Messages, answer: str, complaint: str) -> Messages:
    """The same question with the answer that was malformed, and why."""
    again = f"That answer cannot be used: {complaint}. Answer the question once more, with JSON alone."
    return [*messages, {"role": "assistant", "content": answer or "(nothing)"}, {"role": "user", "content": again}]


def _about(about: str) -> str:
    return f" ({_line(about)})" if about else ""


def _line(text: str) -> str:
    return " ".join(text.split())


class _Contradiction:
    """Stands for the value of a key that an object names twice with different values."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        made[key] = value if key not in made or made[key] == value else _Contradiction
    return made


def _read_json(answer: str) -> Any:
    """The JSON of an answer, whatever words or fences stand around it.

    Raises:
      Malformed: there is none.
    """
    text = _FENCE.sub("", answer.strip())
    first, last = text.find("{"), text.rfind("}")
    try:
        return json.loads(text[first : last + 1] if first >= 0 else text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise Malformed("it is not JSON") from error


def clean_name(name: str) -> str:
    """A category's name on one line, without what frames it in lists."""
    return _line(name).strip("-*\u2022 \t\"'")


def plain_name(name: str) -> str:
    """What two spellings of one name have in common."""
    return unicodedata.normalize("NFC", clean_name(name)).casefold()  # macOS writes an accent as a letter of its own


def _is_printable(name: str) -> bool:
    """Whether a file can hold the name: no control characters, no halves of characters that JSON can spell."""
    return not any(unicodedata.category(char) in ("Cc", "Cs") for char in _line(name))


def check_taxonomy(names: Sequence[Any]) -> list[str]:
    """The categories without those named twice, `OTHER` last.

    Raises:
      Malformed: fewer than two, or something that is no short name.
    """
    kept: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not clean_name(name) or not _is_printable(name):
            raise Malformed(f"{repr(name)[:60]} is not the name of a category")
        if len(clean_name(name)) > _MAX_NAME:
            raise Malformed(f"the name {clean_name(name)[:40]!r}... is longer than {_MAX_NAME} characters")
        kept.setdefault(plain_name(name), clean_name(name))
    kept.pop(plain_name(OTHER), None)
    if len(kept) < 2:
        raise Malformed(f"it has {len(kept)} categories, and there must be at least two")
    return [*kept.values(), OTHER]


def read_taxonomy(answer: str, number: int) -> list[str]:
    """The categories of an answer to `ask_taxonomy`.

    Args:
      answer: the model's words.
      number: of categories that were asked for: more than three times as many are refused.

    Raises:
      Malformed: it cannot be used.
    """
    values = _read_json(answer)
    names = values.get("categories") if isinstance(values, dict) else None
    if not isinstance(names, list):
        raise Malformed('it has no list "categories"')
    kept = check_taxonomy(names)
    if len(kept) > 3 * number + 10:
        raise Malformed(f"it has {len(kept)} categories, and about {number} were asked for")
    return kept


def read_categories(answer: str, num_items: int, names: Mapping[str, str]) -> dict[int, str]:
    """The items, counted from 0, that an answer to `ask_categories` puts into exactly one category of the taxonomy.

    Items that it leaves out, puts into two or into an unknown category, and numbers that nobody asked about, are not
    among them.

    Args:
      answer: the model's words.
      num_items: that were asked about.
      names: of the taxonomy, by `plain_name`.

    Raises:
      Malformed: nothing of it can be used.
    """
    values = _read_json(answer)
    if not isinstance(values, dict):
        raise Malformed("it is no JSON object")
    found = {}
    for number in range(num_items):
        name = values.get(str(number + 1))
        if isinstance(name, str) and plain_name(name) in names:
            found[number] = names[plain_name(name)]
    if not found:
        raise Malformed("no item has exactly one category of the list")
    return found
