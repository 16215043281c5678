"""QEMU's machine protocol: one JSON object per line over a socket (QEMU's docs/interop/qmp-spec).

A connection is held only as long as it takes, because QEMU serves one at a time and a board may be looked
after by several processes of this host.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from results.errors import ConnectionLost, ProtocolError

_LIMIT_S = 30.0


class Qmp:
    """A connection to a running QEMU; use as a context manager.

    Args:
        device: Board, for errors.
        path: Its socket.
        limit_s: Longest wait for an answer, by the host's clock.

    Raises:
        ConnectionLost: If QEMU does not answer.
    """

    def __init__(self, device: str, path: Path, *, limit_s: float = _LIMIT_S) -> None:
        self._device = device
        self._deadline = time.monotonic() + limit_s
        self._limit_s = limit_s
        self._buffer = b""
        self._socket = connect_to(device, path, limit_s)
        try:
            self._receive()  # the greeting
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def execute(self, command: str, **arguments: Any) -> Any:
        """What QEMU returns for a command.

        Raises:
            ConnectionLost: If QEMU has gone, or does not answer in time.
            ProtocolError: If it refuses the command.
        """
        self._deadline = time.monotonic() + self._limit_s
        question = {"execute": command} | ({"arguments": arguments} if arguments else {})
        try:
            self._socket.sendall(json.dumps(question).encode() + b"\n")
        except OSError as error:
            raise ConnectionLost(self._device, f"QEMU has gone: {error}") from error
        while True:
            answer = self._receive()
            if "error" in answer:
                said = answer["error"].get("desc") if isinstance(answer["error"], dict) else answer["error"]
                raise ProtocolError(self._device, f"QEMU refuses {command}: {said}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        """Ends the connection; the board goes on."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                self._socket.settimeout(max(0.01, self._deadline - time.monotonic()))
                data = self._socket.recv(1 << 16)
            except OSError as error:
                raise ConnectionLost(self._device, f"QEMU does not answer: {error}") from error
            if not data:
                raise ConnectionLost(self._device, "QEMU has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise ProtocolError(self._device, f"QEMU said {line[:200]!r}") from error
        if not isinstance(answer, dict):
            raise ProtocolError(self._device, f"QEMU said {line[:200]!r}")
        return answer


def connect_to(device: str, path: Path, limit_s: float = _LIMIT_S) -> socket.socket:
    """A connection to one of a board's sockets.

    Raises:
        ConnectionLost: If nobody answers there.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(limit_s)
    try:
        # A socket's name may be 107 bytes long; the folder's may be longer than that.
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{path.name}")
        finally:
            os.close(descriptor)
    except OSError as error:
        connection.close()
        raise ConnectionLost(device, f"QEMU does not answer at {path}: {error.strerror or error}") from error
    return connection
