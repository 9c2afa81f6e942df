"""A provider of models on this machine that speaks the OpenAI protocol, and says what a test wants it to say."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Asked", Any], None]  # what was asked, and the handler that answers


class Asked(dict[str, Any]):
    """One request's body, with its headers and path."""

    headers: Mapping[str, str]
    path: str
    raw: bytes
    number: int


class Provider:
    """Answers each request with the next of `answers`; the last one stays."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []
        self.released = threading.Event()  # lets those go on that hang
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                asked = Asked(json.loads(body or b"{}"))
                asked.raw = body
                asked.headers = {name.lower(): value for name, value in self.headers.items()}
                asked.path = self.path
                with provider._lock:
                    provider.asked.append(asked)
                    asked.number = len(provider.asked)
                    answer = provider.answers.pop(0) if len(provider.answers) > 1 else provider.answers[0]
                try:
                    answer(asked, self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                return

        return Handler

    def __enter__(self) -> "Provider":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(handler: Any, body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def says(text: str = "", *calls: tuple[str, dict[str, Any]], tokens: tuple[int, int] = (10, 5)) -> Answer:
    """Answer with a text and calls of tools, whole or as a stream, as it was asked."""

    def answer(asked: Asked, handler: Any) -> None:
        found = [
            {"id": f"call_{asked.number}_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for n, (name, given) in enumerate(calls)
        ]
        reason = "tool_calls" if found else "stop"
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        head: dict[str, Any] = {"id": f"chat-{asked.number}", "created": 1, "model": asked["model"]}
        if not asked.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": text or None}
            if found:
                message["tool_calls"] = found
            choice = {"index": 0, "message": message, "finish_reason": reason}
            send(handler, json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}).encode())
            return
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": text[at : at + 4]} for at in range(0, len(text), 4)]
        for n, call in enumerate(found):
            deltas.append({"tool_calls": [{"index": n, **call}]})
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        chunks.append({"choices": [], "usage": usage})
        lines = [json.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
        body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()
        send(handler, body, kind="text/event-stream")

    return answer


def reports(results: str, **more: Any) -> Answer:
    """Answer with the structured result."""

    def answer(asked: Asked, handler: Any) -> None:
        name = next(tool["function"]["name"] for tool in asked["tools"] if "final_result" in tool["function"]["name"])
        says("", (name, {"results": results, **more}))(asked, handler)

    return answer


def fails(status: int, message: str = "no", **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "error"}}).encode()
    return lambda asked, handler: send(handler, body, status, **headers)


def raw(body: bytes, kind: str = "application/json") -> Answer:
    return lambda asked, handler: send(handler, body, kind=kind)


def hangs(provider: list[Provider]) -> Answer:
    """Answer nothing until the test is over."""

    def answer(asked: Asked, handler: Any) -> None:
        provider[0].released.wait(30)
        handler.close_connection = True

    return answer


def trickles(provider: list[Provider]) -> Answer:
    """Begin a stream and never end it."""

    def answer(asked: Asked, handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.close_connection = True
        while not provider[0].released.wait(0.05):
            handler.wfile.write(b": still thinking\n\n")
            handler.wfile.flush()

    return answer


@contextmanager
def serving(*answers: Answer) -> Iterator[Provider]:
    with Provider(*answers) as provider:
        yield provider
