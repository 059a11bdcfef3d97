"""A service that answers in 20 ms, with a pool of threads, so that no request waits for another. Mostly."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAME = re.compile(r"(\w+[ .'-]?)+")


def sign_up(name: str) -> str:
    """Take a customer."""
    if not NAME.fullmatch(name):
        return "is that a name?"
    time.sleep(0.02)  # the database
    return "welcome"


class Handler(BaseHTTPRequestHandler):
    """Answers a request."""

    def do_GET(self) -> None:
        """Sign up whoever it is."""
        (name,) = parse_qs(urlsplit(self.path).query).get("name", ["somebody"])
        answer = sign_up(name).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Leave the output to otel-gil."""


class Server(ThreadingHTTPServer):
    """Has 8 threads, instead of a new one for each request."""

    request_queue_size = 128
    pool = ThreadPoolExecutor(8)

    def process_request(self, *request: Any) -> None:
        """Let one of them answer."""
        self.pool.submit(self.process_request_thread, *request)


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()
