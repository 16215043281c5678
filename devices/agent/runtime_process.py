"""The agent's end of a fork server, and of the session that runs in one."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from typing import Any, Dict, List, Optional, Sequence, Tuple

from . import messages, processes
from .conditions import Sensors
from .failures import Failure
from .files import field_of, read_text
from .fork_server import ForkServer, receive, send
from .packages import Place

TAIL_BYTES = 2000
READ_BYTES = 1 << 18


class RuntimeProcess:
    """A process that has loaded a runtime, or is about to; made by forking."""

    def __init__(self, runtime: str, place: Place, root: str, sensors: Sensors) -> None:
        self.runtime = runtime
        self.place = place
        self.version: Optional[str] = None
        self.control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            processes.reset_signals()
            processes.close_all_but([inner.fileno()])
            processes.run_and_exit(lambda: ForkServer(inner, runtime, place, root, sensors).serve(parent))
        inner.close()

    def send(self, packet: Dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Sends a request, or ``{"do": "kill"}`` for the session that runs.

        Raises:
            Failure: ``lost`` if the process has gone.
        """
        try:
            send(self.control, packet, descriptors)
        except OSError as error:
            raise Failure("lost", "the process that holds %s has gone" % self.runtime) from error

    def receive(self) -> Optional[Dict[str, Any]]:
        """The next packet; None if the process has gone."""
        try:
            return receive(self.control)[0]
        except ConnectionError:
            return None

    def end(self) -> int:
        """Ends the process and with it its session; gives its wait status."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        return os.waitpid(self._pid, 0)[1]


class RunningSession:
    """A session that has been asked for: its pipes, and what came through them so far.

    Args:
        process: Where it runs.
        request: What to do.
        payload: Bytes that belong to the request, or None.
        folder: Where a nameless file for them is made.
        root: Where the board's file tree starts.
    """

    def __init__(
        self,
        process: RuntimeProcess,
        request: Dict[str, Any],
        payload: Optional[bytes],
        folder: str,
        root: str,
    ) -> None:
        self.process = process
        self.cancelled = False
        self.answered = False
        self._done: Optional[Tuple[messages.Header, bytes]] = None
        self._decoder = messages.Decoder(messages.REPLY_LIMIT_BYTES)
        self._content = bytearray()
        self._tail = b""
        self._root = root
        self._oom_kills = self._count_oom_kills()
        results, results_inside = os.pipe()
        errors, errors_inside = os.pipe()
        self._takers = {results: self._take_results, errors: self._take_errors}
        inside = [results_inside, errors_inside]
        try:
            if payload is not None:
                inside.append(_nameless_file(folder, payload))
            process.send(request, inside)
        except Failure:
            self.close()
            raise
        finally:
            for descriptor in inside:
                os.close(descriptor)
        for descriptor in self.pipes:
            os.set_blocking(descriptor, False)

    @property
    def pipes(self) -> List[int]:
        """Pipes that have not come to their end."""
        return list(self._takers)

    @property
    def done(self) -> bool:
        """Whether it has said all; what is left of it is the end of its process."""
        return self._done is not None

    def read(self, pipe: int) -> List[messages.Header]:
        """Takes what has come through a pipe, and closes it at its end.

        Returns:
            What the host should hear before the session ends.
        """
        data = os.read(pipe, READ_BYTES)
        if data:
            return self._takers[pipe](data)
        del self._takers[pipe]
        os.close(pipe)
        return []

    def drain(self) -> None:
        """Takes what is left in the pipes once the session's process has ended, and closes them."""
        for pipe in self.pipes:
            try:
                while pipe in self._takers:
                    self.read(pipe)
            except BlockingIOError:
                pass  # something that the session started still has it open
        self.close()

    def close(self) -> None:
        """Closes the pipes."""
        for pipe in self.pipes:
            del self._takers[pipe]
            os.close(pipe)

    def verdict(self, status: int, *, began: bool = True) -> Tuple[messages.Header, bytes]:
        """What the session gave, and bytes that belong to it.

        Args:
            status: Wait status of the session's process.
            began: Whether it took its request: nothing before that is the file's doing.

        Raises:
            Failure: What the session said, or ``cancelled``, ``lost``, ``out_of_memory`` or ``crashed``.
        """
        if self._done is not None and status == 0:
            header, content = self._done
            if "error" in header:
                raise Failure(header["error"]["kind"], header["error"]["message"])
            return header["result"], content
        if self.cancelled:
            raise Failure("cancelled", "the session was ended on request")
        how = processes.ending(status)
        if not began:
            raise Failure("lost", "processes end before they begin, with %s: is memory full?" % how)
        if how == "SIGKILL" and self._ran_out_of_memory():
            raise Failure("out_of_memory", "the kernel killed the process: the board's memory was full")
        said = " ".join(self._tail.decode("utf-8", "replace").split())
        raise Failure("crashed", "the process ended with %s%s" % (how, "; it said: " + said if said else ""))

    def _take_results(self, data: bytes) -> List[messages.Header]:
        early = []
        for header, piece, complete in self._decoder.feed(data):
            self._content += piece
            if complete and "loaded" in header:
                early.append(header)
            elif complete:
                self._done = (header, bytes(self._content))
                self._content.clear()
        return early

    def _take_errors(self, data: bytes) -> List[messages.Header]:
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        return []

    def _ran_out_of_memory(self) -> bool:
        """Whether the kernel killed for memory meanwhile; kernels before 4.13 do not count, so assumed."""
        count = self._count_oom_kills()
        return count is None or self._oom_kills is None or count > self._oom_kills

    def _count_oom_kills(self) -> Optional[int]:
        return field_of(read_text(os.path.join(self._root, "proc/vmstat")), "oom_kill")


def _nameless_file(folder: str, content: bytes) -> int:
    path = os.path.join(folder, ".payload")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    try:
        processes.write_all(descriptor, content)
    except OSError as error:
        os.close(descriptor)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Failure("disk_full" if full else "disk_error", "%s: %s" % (path, error.strerror)) from error
    return descriptor
