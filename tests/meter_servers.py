"""Meters on the network, played by real servers on this machine's loopback."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PowerNow = Callable[[], Any]


@contextlib.contextmanager
def _serving(server: Any) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def http_plug(answer: Callable[[str], Any]) -> Iterator[int]:
    """A plug that answers a path with JSON, or with a status where it gives a number; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            said = answer(self.path)
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(said if isinstance(said, int) else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    with _serving(server) as port:
        yield port


def shelly(power_w: PowerNow) -> Callable[[str], Any]:
    """What a Shelly of the second generation answers."""

    def answer(path: str) -> Any:
        if path != "/rpc/Switch.GetStatus?id=0":
            return 404
        return {"id": 0, "output": True, "apower": power_w(), "voltage": 230.1, "aenergy": {"total": 12.3}}

    return answer


def tasmota(power: PowerNow) -> Callable[[str], Any]:
    """What a plug with Tasmota answers."""

    def answer(path: str) -> Any:
        if path != "/cm?cmnd=Status%208":
            return 404
        return {"StatusSNS": {"Time": "2024-01-01T00:00:00", "ENERGY": {"Total": 1.2, "Power": power()}}}

    return answer


@contextlib.contextmanager
def scpi(answers: Callable[[str], str]) -> Iterator[int]:
    """An instrument that answers each line with a line; gives its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(answers(line.decode().strip()).encode() + b"\n")

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with _serving(Server(("127.0.0.1", 0), Handler)) as port:
        yield port
