"""A chat endpoint of the OpenAI form, which most servers of language models speak. Imports no TensorFlow."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import urllib3

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text_table import printable

Messages = list[dict[str, str]]
"""Of a question: role and content."""

_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_LONGEST_PAUSE_S = 120
_SHOWN = 300
_PATH = "/chat/completions"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
      content: its words; "" where it gave none.
      is_cut: whether it stopped at its limit of tokens.
      tokens_in, tokens_out: as the endpoint counts them; 0 where it does not.
    """

    content: str
    is_cut: bool
    tokens_in: int
    tokens_out: int


@dataclasses.dataclass(frozen=True)
class Chat:
    """Asks one model at one endpoint; safe to share between threads.

    Attributes:
      endpoint: base URL, such as http://localhost:8000/v1.
      model: its name there.
      key: sent as a bearer token; "" for none.
      options: further fields of every request, such as temperature.
      timeout_s: for a connection, and for each answer.
      retries: how often a request is sent again after a refusal for now (429, 5xx) or no answer in time.
      backoff_s: the first pause before that; each next is twice as long, up to two minutes, or as Retry-After says.
    """

    endpoint: str
    model: str
    key: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timeout_s: float = 60.0
    retries: int = 6
    backoff_s: float = 1.0
    _pool: urllib3.PoolManager = dataclasses.field(
        default_factory=lambda: urllib3.PoolManager(maxsize=64), repr=False, compare=False
    )

    def ask(self, messages: Sequence[dict[str, str]]) -> Reply:
        """Asks one question.

        Raises:
          UserError: the endpoint cannot be reached, refuses for good (a wrong key, model or request), refuses for now
            more often than `retries`, or answers with something else than a chat completion.
        """
        url = f"{self.endpoint.rstrip('/').removesuffix(_PATH)}{_PATH}"
        body = {"model": self.model, "messages": list(messages), **self.options}
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        again = urllib3.Retry(
            total=self.retries,
            redirect=0,
            allowed_methods=None,  # a question changes nothing there, so that asking twice does no harm
            status_forcelist=_AGAIN,
            backoff_factor=self.backoff_s,
            backoff_max=_LONGEST_PAUSE_S,
            backoff_jitter=self.backoff_s / 2,
            retry_after_max=_LONGEST_PAUSE_S,
            raise_on_status=False,
            raise_on_redirect=False,
        )
        try:
            response = self._pool.request(
                "POST",
                url,
                # Half a character, which a model's earlier answer may hold, becomes a question mark.
                body=json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"),
                headers=headers,
                timeout=urllib3.Timeout(connect=self.timeout_s, read=self.timeout_s),
                retries=again,
            )
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise UserError(
                f"--endpoint={self.endpoint}: no answer after {self.retries + 1} attempts ({_short(str(why))}); what "
                "was answered before is kept: run the same command again when it is there"
            ) from error
        if response.status != 200:
            raise UserError(self._refusal(response.status, response.data))
        return self._read(response.data)

    def _refusal(self, status: int, data: bytes) -> str:
        said = _short(data.decode("utf-8", "replace"))
        if status in _AGAIN:
            return (
                f"--endpoint={self.endpoint}: status {status} after {self.retries + 1} attempts: {said}; what was "
                "answered before is kept: run the same command again later, perhaps with fewer --parallel"
            )
        return (
            f"--endpoint={self.endpoint}: status {status}: {said}; check the endpoint, --model={self.model}, the key "
            "and --request_options"
        )

    def _read(self, data: bytes) -> Reply:
        try:
            values = json.loads(data)
            choice = values["choices"][0]
            content = choice["message"].get("content") or ""
            usage = values.get("usage") or {}
            tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
            return Reply(str(content), choice.get("finish_reason") == "length", *tokens)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            said = _short(data.decode("utf-8", "replace"))
            raise UserError(
                f"--endpoint={self.endpoint}: the answer is no chat completion: {said}; expected the base URL of an "
                "OpenAI-compatible endpoint, such as http://localhost:8000/v1"
            ) from error


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return (line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...") or "(empty)"
