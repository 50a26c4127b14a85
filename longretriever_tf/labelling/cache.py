"""What a model has answered, by the content of the question: a rerun asks nothing twice. Imports no TensorFlow."""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_os_errors

_FILE = "answers.jsonl"


def key_of(*parts: Any) -> str:
    """A name for a question: equal for equal contents alone."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class AnswerCache:
    """Answers by key, in a file to which a line is added for each; safe to share between threads.

    A killed process leaves at most half a line, which is no answer. The caller holds the directory's lock.

    Args:
      directory: made if need be.

    Raises:
      UserError: it cannot be read or written.
    """

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, _FILE)
        self._lock = threading.Lock()
        self._answers: dict[str, Any] = {}
        with explain_os_errors(f"cannot use the cache {self._path!r}"):
            os.makedirs(directory, exist_ok=True)
            if os.path.exists(self._path):
                self._read()

    def _read(self) -> None:
        whole = 0
        with open(self._path, "rb+") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # a killed process's last line
                try:
                    values = json.loads(line)
                    self._answers[values["key"]] = values["answer"]
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"{self._path} is damaged in line {number}: delete that line; what it answered is asked anew"
                    ) from error
                whole += len(line)
            file.truncate(whole)

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def get(self, key: str) -> Any:
        """The answer; None where there is none, or where the model had none that could be used."""
        return self._answers.get(key)

    def add(self, answers: Mapping[str, Any]) -> None:
        """Keeps some answers, on disk before it returns.

        Raises:
          UserError: the disk is full or not writable.
        """
        lines = "".join(
            json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n" for key, answer in answers.items()
        )
        with self._lock, explain_os_errors(f"cannot write {self._path!r}"), open(self._path, "ab") as file:
            file.write(lines.encode("utf-8", "surrogatepass"))
            file.flush()
            os.fsync(file.fileno())
            self._answers.update(answers)
