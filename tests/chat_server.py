"""A chat endpoint on this machine that sorts texts by a word in them, as well or as badly as a test wants."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CATEGORIES = {"tea": "Tea", "nut": "Nuts", "soap": "Soap & Care"}
"""The word of a text, and its category."""

Fault = Callable[["ChatServer", int, dict], tuple[int, dict[str, str], str] | None]
"""From the server, the request's number from 1 and its body to status, headers and content; None: the right answer."""


class ChatServer:
    """What was asked, and how it is answered.

    Attributes:
      endpoint: its base URL.
      asked: bodies of all requests, in the order of their coming.
      keys: their Authorization headers.
      fault: what goes wrong.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.fault: Fault = lambda server, number, body: None
        self.lock = threading.Lock()

    def texts(self) -> list[str]:
        """The texts whose category was asked for, once for each asking."""
        return [text for body in self.asked if not is_taxonomy(body) for _, text in numbered(body)]


def is_taxonomy(body: dict) -> bool:
    return "Propose" in body["messages"][0]["content"]


def numbered(body: dict) -> list[tuple[str, str]]:
    """Number and text of each item of a question."""
    return re.findall(r"^(\d+): (.*)$", body["messages"][1]["content"], re.MULTILINE)


def right_answer(body: dict) -> dict:
    if is_taxonomy(body):
        return {"categories": list(CATEGORIES.values())}
    return {number: next(name for word, name in CATEGORIES.items() if word in text) for number, text in numbered(body)}


def completion(content: str, finish: str = "stop") -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}})


@contextlib.contextmanager
def chat_server() -> Iterator[ChatServer]:
    """Serves until the block ends."""
    server = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            with server.lock:
                server.asked.append(body)
                server.keys.append(self.headers.get("Authorization"))
                number = len(server.asked)
            wrong = server.fault(server, number, body)
            status, headers, text = wrong or (200, {}, completion(json.dumps(right_answer(body))))
            with contextlib.suppress(OSError):  # who asked may have left
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, *args) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.endpoint = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def late(seconds: float) -> None:
    time.sleep(seconds)
