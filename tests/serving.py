"""A live page's server in a thread, and requests to it."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

from seq2seq.viewer.live import LiveRun
from seq2seq.viewer.server import build_app, listen, make_server


@contextmanager
def serving(runs: Sequence[LiveRun]) -> Iterator[str]:
    """``HOST:PORT`` of a server for these runs."""
    with listen("127.0.0.1", 0) as listening:
        server = make_server(build_app(runs))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class Answer:
    """Status, headers and body of a response."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)


def ask(address: str, path: str, body: Any = None, method: str = "", headers: Any = None) -> Answer:
    """GET, or POST where there is a ``body``: bytes as they are, all else as JSON."""
    connection = HTTPConnection(address, timeout=600)
    if body is not None:
        headers = {"Content-Type": "application/json"} | (headers or {})
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read())
    finally:
        connection.close()
