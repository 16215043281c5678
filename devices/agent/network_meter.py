"""What meters on the network share: a kept connection, and errors that say what to look at.

One reading that fails may be a lost packet; a meter that cannot be reached when it is opened is a fault.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
from typing import Any, Optional

from .failures import Failure, describe
from .metering import Glitch, Number

ANSWER_LIMIT_S = 3.0
MOST_BYTES = 1 << 16

WALL_PERIOD_S = 1.0
WALL_GAIN = 0.01
WALL_LEAST_S = 120.0
WALL_LEAST_NET_W = 1.0
"""Smart plugs: a value a second, one percent, and only for long runs of models that draw a watt more."""

PORT = Number(80, 1, 65535)


class JsonOverHttp:
    """Asks one address for JSON, over a connection that is kept.

    Args:
        kind: Name of the meter, for messages.
        host: Host name or address.
        port: Its port.
        path: What is asked for.
    """

    def __init__(self, kind: str, host: str, port: float, path: str) -> None:
        if not host:
            raise Failure("bad_option", "%s: host is missing: the address of the meter on the network" % kind)
        self._where = "%s at %s:%d" % (kind, host, port)
        self._path = path
        self._connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_LIMIT_S)

    def get(self) -> Any:
        """The answer.

        Raises:
            Glitch: If none came, or something else than JSON.
        """
        try:
            self._connection.request("GET", self._path)
            answer = self._connection.getresponse()
            content = answer.read(MOST_BYTES)
            if answer.status != 200:
                hint = "; it wants a password" if answer.status == 401 else ""
                raise Glitch("%s answers %d %s%s" % (self._where, answer.status, answer.reason, hint))
            return json.loads(content.decode("utf-8"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise Glitch("%s does not answer: %s" % (self._where, describe(error))) from error

    def close(self) -> None:
        """Closes the connection; may be called twice."""
        self._connection.close()


class Lines:
    """Asks over a TCP connection, one line each way, as instruments do (SCPI raw socket).

    Args:
        kind: Name of the meter, for messages.
        host: Host name or address.
        port: Its port.
    """

    def __init__(self, kind: str, host: str, port: float) -> None:
        if not host:
            raise Failure("bad_option", "%s: host is missing: the address of the meter on the network" % kind)
        self._where = "%s at %s:%d" % (kind, host, port)
        self._address = (host, int(port))
        self._socket: Optional[socket.socket] = None
        self._rest = b""

    def ask(self, line: str) -> str:
        """The line that is answered to a line.

        Raises:
            Glitch: If none came.
        """
        try:
            self._connect().sendall(line.encode("ascii") + b"\n")
            return self._line().decode("ascii", "replace").strip()
        except OSError as error:
            self.close()
            raise Glitch("%s does not answer to %s: %s" % (self._where, line, describe(error))) from error

    def close(self) -> None:
        """Closes the connection; may be called twice."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._socket, self._rest = None, b""

    def _connect(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, ANSWER_LIMIT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _line(self) -> bytes:
        while b"\n" not in self._rest:
            data = self._connect().recv(4096)
            if not data:
                raise ConnectionResetError("it closed the connection")
            self._rest += data
            if len(self._rest) > MOST_BYTES:
                raise OSError("it talks without end")
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def number(value: Any, what: str) -> float:
    """A number that a meter gave.

    Raises:
        Glitch: If it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise Glitch("%s is %.40r, no number" % (what, value)) from error
    if not math.isfinite(found):
        raise Glitch("%s is %s" % (what, found))
    return found
