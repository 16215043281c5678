"""The agent's end of the process that reads a meter."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from typing import Any, Callable, Dict, Optional, Tuple

from . import messages, processes
from .failures import Failure
from .runtime_process import READ_BYTES
from .sampler import Sampler

Reply = Tuple[Dict[str, Any], bytes]
Send = Callable[[Callable[[], Optional[Reply]]], None]


class MeterProcess:
    """At most one meter is read at a time.

    Args:
        root: Where the machine's file tree starts.
        selector: The agent's.
        reply: Sends what a function gives as the answer to the host's last question.
    """

    def __init__(self, root: str, selector: selectors.BaseSelector, reply: Send) -> None:
        self._root = root
        self._selector = selector
        self._reply = reply
        self._control: Optional[socket.socket] = None
        self._pid = 0
        self._decoder = messages.Decoder(messages.REPLY_LIMIT_BYTES)
        self._content = bytearray()
        self._failure: Optional[Failure] = None
        self._asked = False

    def start(self, request: Dict[str, Any], sink: Any) -> Optional[Reply]:
        """Starts to sample; the answer, the facts of the meter, comes when it gives values."""
        self.end()
        self._decoder = messages.Decoder(messages.REPLY_LIMIT_BYTES)
        self._content.clear()
        self._failure, self._asked = None, True
        wanted = {key: request[key] for key in ("meter", "options", "seed", "limit_s")}
        self._control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            processes.reset_signals()
            processes.close_all_but([inner.fileno()])
            processes.run_and_exit(lambda: Sampler(inner, self._root, wanted).serve(parent))
        inner.close()
        self._selector.register(self._control, selectors.EVENT_READ, self._hear)
        return None

    def stop(self, request: Dict[str, Any], sink: Any) -> Optional[Reply]:
        """Ends the sampling; the answer, the trace, comes when it has come from there.

        Raises:
            Failure: ``meter`` if there is nothing to stop, or the meter had failed.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._control is None:
            raise Failure("bad_request", "no meter is read")
        self._asked = True
        with contextlib.suppress(OSError):  # it has gone, which we are about to hear
            self._control.sendall(b"stop\n")
        return None

    def end(self) -> None:
        """Ends the process; what it had is lost."""
        if self._control is not None:
            self._selector.unregister(self._control)
            self._control.close()
            self._control = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _hear(self) -> None:
        control = self._control
        if control is None:
            return
        try:
            data = control.recv(READ_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            self.end()
            self._fail(Failure("meter", "the process that reads the meter has died"))
            return
        for header, piece, complete in self._decoder.feed(data):
            self._content += piece
            if complete:
                self._take(header, bytes(self._content))
                self._content.clear()

    def _take(self, header: messages.Header, content: bytes) -> None:
        if "failed" in header:
            self.end()
            self._fail(Failure(header["failed"]["kind"], header["failed"]["message"]))
        elif self._asked:
            self._asked = False
            if "trace" in header:
                self.end()
            what: Dict[str, Any] = header["trace" if "trace" in header else "ready"]
            self._reply(lambda: (what, content))

    def _fail(self, failure: Failure) -> None:
        """Tells the host if it waits; else when it asks."""
        if not self._asked:
            self._failure = failure
            return
        self._asked = False

        def refuse() -> Optional[Reply]:
            raise failure

        self._reply(refuse)
