"""Asks for a taxonomy, then for the category of each text in batches; checks every answer. Imports no TensorFlow."""

import collections
import contextlib
import dataclasses
import hashlib
import queue
import threading
from collections.abc import Sequence

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.progress import Progress
from longretriever_tf.common.text import as_text
from longretriever_tf.data.recipe.text_context import place_texts
from longretriever_tf.datasets.log import ItemTable
from longretriever_tf.labelling import questions
from longretriever_tf.labelling.cache import AnswerCache, key_of
from longretriever_tf.labelling.chat import Chat, Messages, Reply
from longretriever_tf.labelling.costs import Estimate, estimate_batches, estimate_taxonomy

_UNKNOWN_NAME = "a category name"
"""Stands in estimates for each name of a taxonomy that nobody knows yet."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked.

    Attributes:
      model: the model's name, in the key of every answer.
      about: what the catalogue is; "" for nothing.
      num_categories: about how many.
      sample: texts that the taxonomy is made from, at most.
      batch: texts of one question.
      attempts: how often a question is asked whose answer cannot be used.
      parallel: questions at a time.
    """

    model: str
    about: str = ""
    num_categories: int = 100
    sample: int = 500
    batch: int = 40
    attempts: int = 3
    parallel: int = 4


@dataclasses.dataclass
class Spent:
    """What was sent and came back in this run."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    malformed: int = 0

    def add(self, reply: Reply) -> None:
        """Counts an answer."""
        self.requests += 1
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out


@dataclasses.dataclass(frozen=True)
class Labels:
    """The category of each text.

    Attributes:
      name: [n] of str.
      is_placed: by its nearest text, since the model gave no answer that could be used, [n] bool.
    """

    name: np.ndarray
    is_placed: np.ndarray


class Labeller:
    """The questions of one catalogue.

    Args:
      texts: the distinct texts, [n] of str.
      settings: what is asked.
      cache: of earlier answers.

    Attributes:
      texts: as given.
      spent: what was sent so far.
    """

    def __init__(self, texts: np.ndarray, settings: Settings, cache: AnswerCache) -> None:
        self.texts, self._settings, self._cache = texts, settings, cache
        self._lock = threading.Lock()
        self.spent = Spent()

    def known_taxonomy(self) -> list[str] | None:
        """The taxonomy that an earlier run was given for the same texts and settings."""
        taxonomy: list[str] | None = self._cache.get(self._taxonomy_key())
        return taxonomy

    def estimate(self, taxonomy: list[str] | None) -> Estimate:
        """What is still to be asked; None: the taxonomy is, too."""
        if taxonomy is None:
            number = self._settings.num_categories
            first = estimate_taxonomy(self._taxonomy_question(), number)
            batches = self._batches(np.arange(len(self.texts)))
            names = [_UNKNOWN_NAME] * (number + 1)
        else:
            first, batches, names = Estimate(), self._batches(self._unanswered(taxonomy)), taxonomy
        return first + estimate_batches((self._question(batch, names), len(batch)) for batch in batches)

    def ask_taxonomy(self, chat: Chat) -> list[str]:
        """Asks for the taxonomy.

        Raises:
          UserError: the endpoint fails, or no answer could be used.
        """
        messages, complaint = self._taxonomy_question(), ""
        for _ in range(self._settings.attempts):
            reply = self._ask(chat, messages)
            try:
                if reply.is_cut:
                    raise questions.Malformed("it was cut off before its end")
                taxonomy = questions.read_taxonomy(reply.content, self._settings.num_categories)
            except questions.Malformed as error:
                self.spent.malformed += 1
                complaint = str(error)
                messages = questions.ask_again(self._taxonomy_question(), reply.content, complaint)
                continue
            self._cache.add({self._taxonomy_key(): taxonomy})
            return taxonomy
        raise UserError(
            f"--model={chat.model} gave no taxonomy in {self._settings.attempts} attempts (the last: {complaint}): "
            "name another model, fewer --num_categories, or a list of your own by --taxonomy=FILE"
        )

    def assign(self, taxonomy: list[str], chat: Chat | None) -> Labels:
        """The category of every text: from the cache, else from the model, else of its nearest text.

        Args:
          taxonomy: the categories.
          chat: whom to ask; None: nobody, everything is in the cache.

        Raises:
          UserError: the endpoint fails; answers that came before stay in the cache. Or none could be used.
        """
        missing = self._unanswered(taxonomy)
        if len(missing) and chat is not None:
            self._ask_all(chat, taxonomy, self._batches(missing))
        known = {questions.plain_name(name) for name in taxonomy}
        answers = [self._cache.get(key) or "" for key in self._keys(self.texts, taxonomy)]
        name = as_text(answer if questions.plain_name(answer) in known else "" for answer in answers)
        return self._place(name)

    def _ask_all(self, chat: Chat, taxonomy: list[str], batches: list[np.ndarray]) -> None:
        """Asks in daemon threads: who stops the command waits for no endpoint, as the end of a thread pool would."""
        progress = Progress("asking", sum(map(len, batches)), "texts")
        waiting, ended = collections.deque(batches), queue.SimpleQueue[int | Exception]()

        def work() -> None:
            while waiting:
                with contextlib.suppress(IndexError):  # another thread took the last one
                    batch = waiting.popleft()
                    ended.put(self._try_batch(chat, taxonomy, batch))

        threads = [threading.Thread(target=work, daemon=True) for _ in range(self._settings.parallel)]
        try:
            for thread in threads:
                thread.start()
            for _ in batches:
                result = ended.get()
                if isinstance(result, Exception):
                    waiting.clear()
                    for thread in threads:  # what others were answered is paid for, and kept
                        thread.join()
                    raise result
                progress.update(result)
        finally:
            waiting.clear()
            progress.close()

    def _try_batch(self, chat: Chat, taxonomy: list[str], rows: np.ndarray) -> int | Exception:
        """How many texts were asked about, or what prevented it."""
        try:
            self._assign_batch(chat, taxonomy, rows)
        except Exception as error:  # raised where the thread was started
            return error
        return len(rows)

    def _assign_batch(self, chat: Chat, taxonomy: list[str], rows: np.ndarray) -> None:
        """Asks about some texts until each has an answer or `attempts` is used up, and keeps what was answered."""
        names = {questions.plain_name(name): name for name in taxonomy}
        left, messages = rows, self._question(rows, taxonomy)
        for _ in range(self._settings.attempts):
            reply = self._ask(chat, messages)
            try:
                found = questions.read_categories(reply.content, len(left), names)
            except questions.Malformed as error:
                complaint: str = "it was cut off before its end" if reply.is_cut else str(error)
                found = {}
            else:
                complaint = "some items had no category of the list, or more than one"
                self._cache.add(
                    dict(zip(self._keys(self.texts[left[list(found)]], taxonomy), found.values(), strict=True))
                )
            if len(found) == len(left):
                return
            with self._lock:
                self.spent.malformed += 1
            left = np.delete(left, list(found))
            question = self._question(left, taxonomy)
            messages = question if found else questions.ask_again(question, reply.content, complaint)
        self._cache.add(dict.fromkeys(self._keys(self.texts[left], taxonomy)))

    def _place(self, name: np.ndarray) -> Labels:
        """Texts without an answer, in the category whose texts are nearest; where none is near, in the last one."""
        is_known = name != ""
        if not is_known.any():
            raise UserError(
                f"--model={self._settings.model}: none of its answers on {len(name):,} texts could be used; name "
                "another model, or larger --attempts and another --cache"
            )
        if is_known.all():
            return Labels(name, ~is_known)
        placed = name.copy()
        try:
            table = ItemTable(np.arange(len(name)), {}, self.texts)
            placed = place_texts(table, (), is_known, name)
        except UserError:  # texts without a single word
            pass
        placed[placed == ""] = questions.OTHER
        return Labels(placed, ~is_known)

    def _ask(self, chat: Chat, messages: Messages) -> Reply:
        reply = chat.ask(messages)
        with self._lock:
            self.spent.add(reply)
        return reply

    def _taxonomy_question(self) -> Messages:
        settings = self._settings
        return questions.ask_taxonomy(_sample(self.texts, settings.sample), settings.num_categories, settings.about)

    def _taxonomy_key(self) -> str:
        return key_of("taxonomy", questions.VERSION, self._settings.model, self._taxonomy_question())

    def _question(self, rows: np.ndarray, taxonomy: Sequence[str]) -> Messages:
        return questions.ask_categories(self.texts[rows].tolist(), taxonomy, self._settings.about)

    def _keys(self, texts: np.ndarray, taxonomy: Sequence[str]) -> list[str]:
        """The key of the question for each text's category."""
        common = key_of("category", questions.VERSION, self._settings.model, self._settings.about, taxonomy)
        return [key_of(common, text) for text in texts.tolist()]

    def _unanswered(self, taxonomy: list[str]) -> np.ndarray:
        return np.flatnonzero([key not in self._cache for key in self._keys(self.texts, taxonomy)])

    def _batches(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[low : low + self._settings.batch] for low in range(0, len(rows), self._settings.batch)]


def _sample(texts: np.ndarray, most: int) -> list[str]:
    """At most so many texts, drawn by their hash, so that the same catalogue gives the same sample in any order."""
    by_hash = sorted(texts.tolist(), key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return by_hash[:most]
