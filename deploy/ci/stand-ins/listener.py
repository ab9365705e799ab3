"""Stands in for the collector, Jaeger and Grafana, which no package brings: takes calls on their ports, prints them."""

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORTS = (3000, 4318, 16686)


class Answer(BaseHTTPRequestHandler):
    """Any call."""

    def do_GET(self) -> None:
        """Reads it all, as those would."""
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        print(f"{self.server.server_address[1]} {self.command} {self.path} {len(content)} bytes", flush=True)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """The same."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Says nothing more."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # process 1 is ended by no signal that it doesn't handle
    for port in PORTS:
        threading.Thread(target=ThreadingHTTPServer(("", port), Answer).serve_forever).start()
