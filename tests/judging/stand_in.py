"""A local server in place of a judge: it replies as a test tells it to."""

import http.server
import json
import threading
from collections.abc import Callable
from typing import Any


class StandIn(http.server.ThreadingHTTPServer):
    """`say` gets a request's body and the number of requests before it, and returns the judge's
    text, or a status, or None to hang up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.say: Callable[[Any, int], str | int | None] = lambda body, count: "{'score': 3}"
        self.asked: list[Any] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """Ignores errors of connections that the client has given up."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            count = len(self.server.asked)
            self.server.asked.append(body)
        said = self.server.say(body, count)
        if said is None:
            self.close_connection = True
            return
        if isinstance(said, int):
            self.send_error(said)
            return
        content = {"model": "judge-0613", "choices": [{"message": {"content": said}}]}
        payload = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        pass
