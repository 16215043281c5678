"""The agent's loop: hears the host, the runtimes' processes and the session, and waits for none of them."""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import facts, messages, metering, processes
from .cache import Cache
from .conditions import Sensors
from .failures import Failure
from .meter_process import MeterProcess
from .packages import Place, chosen
from .runtime_process import READ_BYTES, RunningSession, RuntimeProcess

Reply = Tuple[Dict[str, Any], bytes]
Key = Tuple[str, str]


class Server:
    """Answers requests until the host's end closes or a signal comes.

    One request is under way at a time; only ``cancel`` may come meanwhile, and has no reply of its own.

    Args:
        incoming: Where requests come from.
        outgoing: Where replies go.
        woken: Becomes readable when a signal asks for the end.
        directory: The agent's own directory on the board.
        root: Where the board's file tree starts.
        cache: The model files.
    """

    def __init__(
        self, incoming: int, outgoing: int, woken: int, *, directory: str, root: str, cache: Cache
    ) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._directory, self._root, self._cache = directory, root, cache
        self._sensors = Sensors(root)
        self._decoder = messages.Decoder(messages.REQUEST_LIMIT_BYTES)
        self._header: Optional[messages.Header] = None
        self._sink: Any = None
        self._asked = 0
        self._runtimes: Dict[Key, RuntimeProcess] = {}
        self._running: Optional[RunningSession] = None
        self._waiting: Optional[Callable[[], Optional[Reply]]] = None
        self._cancelled = False
        self._ending = False
        self._selector = selectors.DefaultSelector()
        self._meter = MeterProcess(root, self._selector, self._reply_with)
        self._handlers: Dict[str, Callable[[Dict[str, Any], Any], Optional[Reply]]] = {
            "probe": self._probe,
            "ping": lambda request, sink: ({}, b""),
            "missing": self._missing,
            "put": lambda request, sink: (sink.finish() or {}, b""),
            "load": self._load,
            "session": self._session,
            "outputs": self._session,
            "placement": self._session,
            "plateau": self._session,
            "clock": lambda request, sink: ({"ns": metering.now_ns()}, b""),
            "meter_start": self._meter.start,
            "meter_stop": self._meter.stop,
        }
        self._selector.register(incoming, selectors.EVENT_READ, self._hear_host)
        self._selector.register(woken, selectors.EVENT_READ, self._end)

    def run(self) -> None:
        """Runs until the end; then nothing that it started is left."""
        try:
            while not self._ending:
                for key, _ in self._selector.select():
                    # A callback may have closed what another one was waiting for.
                    if not self._ending and key.fileobj in self._selector.get_map():
                        key.data()
        finally:
            self._meter.end()
            for process in self._runtimes.values():
                process.end()

    def _end(self) -> None:
        self._ending = True

    # ------------------------------------------------------------------ the host

    def _hear_host(self) -> None:
        data = os.read(self._incoming, READ_BYTES)
        if not data:
            self._end()
        for header, piece, complete in self._decoder.feed(data):
            if header is not self._header:
                self._header = header
                self._sink = self._begin(header)
            if piece:
                self._sink.write(piece)
            if complete:
                self._handle(header, self._sink)
                self._sink = None

    def _begin(self, header: messages.Header) -> Any:
        """What takes the payload of a request."""
        if header.get("do") != "put":
            return _Bytes()
        try:
            return self._cache.receive(str(header.get("sha256")), header.get("bytes", 0))
        except Failure as failure:
            return _Refused(failure)

    def _handle(self, request: messages.Header, sink: Any) -> None:
        if request.get("do") == "cancel":
            self._cancel()
            return
        self._asked = request.get("id", 0)
        self._reply_with(lambda: self._answer(request, sink))

    def _answer(self, request: messages.Header, sink: Any) -> Optional[Reply]:
        handler = self._handlers.get(str(request.get("do")))
        if handler is None:
            raise Failure("bad_request", "unknown request %.80r" % request.get("do"))
        try:
            return handler(request, sink)
        except (KeyError, TypeError) as error:
            raise Failure("bad_request", "%s: %r" % (request["do"], error)) from error

    def _reply_with(self, action: Callable[[], Optional[Reply]]) -> None:
        """Sends what ``action`` gives, or its failure; nothing where the reply comes later."""
        try:
            reply = action()
        except Failure as failure:
            self._send({"id": self._asked, "error": failure.reply()})
            return
        if reply is not None:
            self._send({"id": self._asked, "ok": reply[0]}, reply[1])

    def _send(self, header: messages.Header, payload: bytes = b"") -> None:
        try:
            processes.write_all(self._outgoing, messages.encode(header, payload))
        except BrokenPipeError:
            self._end()

    # ------------------------------------------------------------------ requests

    def _probe(self, request: Dict[str, Any], sink: Any) -> Reply:
        return facts.probe(self._root, self._directory), b""

    def _missing(self, request: Dict[str, Any], sink: Any) -> Reply:
        return {"missing": self._cache.missing([str(name) for name in request["sha256s"]])}, b""

    def _load(self, request: Dict[str, Any], sink: Any) -> Optional[Reply]:
        key = (str(request["runtime"]), str(request["package"]))
        process = self._runtimes.get(key)
        if process is not None:
            return self._loaded(process)
        self._cancelled = False
        self._start(key, chosen(key[0], self._directory, key[1]))
        return None

    def _start(self, key: Key, candidates: List[Place]) -> None:
        """Loads a runtime from the first of ``candidates``, and from the next one if that fails."""
        process = RuntimeProcess(key[0], candidates[0], self._root, self._sensors)
        self._runtimes[key] = process
        heard = functools.partial(self._hear_runtime, key, process, candidates[1:])
        self._selector.register(process.control, selectors.EVENT_READ, heard)

    def _session(self, request: Dict[str, Any], sink: Any) -> Optional[Reply]:
        process = self._runtimes.get((str(request["runtime"]), str(request["package"])))
        if process is None or process.version is None:
            raise Failure("lost", "%.80s is not loaded" % request["runtime"])
        if self._running is not None and self._running.answered:
            # What it measured is answered already; the next one waits until its process has gone.
            self._waiting = functools.partial(self._session, request, sink)
            return None
        if self._running is not None:
            raise Failure("bad_request", "a session is running")
        inside = dict(request, path=self._cache.path(str(request["sha256"])), received_ns=time.monotonic_ns())
        payload = bytes(sink.content) if request["do"] == "outputs" else None
        session = RunningSession(process, inside, payload, self._directory, self._root)
        self._running = session
        for pipe in session.pipes:
            self._selector.register(pipe, selectors.EVENT_READ, functools.partial(self._hear_session, pipe))
        return None

    def _cancel(self) -> None:
        self._cancelled = True
        if self._waiting is not None:
            self._waiting = None
            failure = Failure("cancelled", "the process of the session before did not end")
            self._send({"id": self._asked, "error": failure.reply()})
        if self._running is not None:
            self._running.cancelled = True
            with contextlib.suppress(Failure):  # its process has gone, which we are about to hear
                self._running.process.send({"do": "kill"})
            return
        for key in [key for key, process in self._runtimes.items() if process.version is None]:
            self._lose(key, self._runtimes[key])

    # ------------------------------------------------------------------ runtimes and sessions

    def _hear_runtime(self, key: Key, process: RuntimeProcess, others: List[Place]) -> None:
        packet = process.receive()
        if packet is None or "failed" in packet:
            self._lose(key, process, packet, others)
        elif "loaded" in packet:
            process.version = packet["loaded"]
            self._reply_with(lambda: self._loaded(process))
        else:
            self._finish(packet["ended"], began=packet["began"])

    def _loaded(self, process: RuntimeProcess) -> Reply:
        package = process.place.package.distribution
        return {
            "package": package,
            "version": process.version,
            "provisioned": bool(process.place.folder),
        }, b""

    def _lose(
        self,
        key: Key,
        process: RuntimeProcess,
        packet: Optional[Dict[str, Any]] = None,
        others: Sequence[Place] = (),
    ) -> None:
        """A runtime's process has gone: before it had loaded, in a session, or idle (then nobody is told)."""
        self._selector.unregister(process.control)
        status = process.end()
        del self._runtimes[key]
        if process.version is None and others:
            self._start(key, list(others))
            return
        if process.version is None:
            failure = _load_failure(process, packet, status, self._cancelled)
        elif self._running is not None and self._running.process is process:
            if self._forget_session(self._running).answered and self._waiting is None:
                return
            self._waiting = None
            failure = Failure("lost", "the process that holds %s has gone" % process.runtime)
        else:
            return
        self._send({"id": self._asked, "error": failure.reply()})

    def _hear_session(self, pipe: int) -> None:
        session = self._running
        if session is None:
            return
        for header in session.read(pipe):
            self._send(dict(header, id=self._asked))
        if pipe not in session.pipes:
            self._selector.unregister(pipe)
        if session.done and not session.answered:
            session.answered = True
            self._reply_with(lambda: session.verdict(0))

    def _finish(self, status: int, *, began: bool) -> None:
        if self._running is None:
            return
        session, (waiting, self._waiting) = self._forget_session(self._running), (self._waiting, None)
        if not session.answered:
            self._reply_with(lambda: session.verdict(status, began=began))
        elif waiting is not None:
            self._reply_with(waiting)

    def _forget_session(self, session: RunningSession) -> RunningSession:
        self._running = None
        for pipe in session.pipes:
            self._selector.unregister(pipe)
        session.drain()
        return session


class _Bytes:
    """Takes a payload into memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> None:
        self.content += data


class _Refused:
    """Takes a payload that nobody wants."""

    def __init__(self, failure: Failure) -> None:
        self._failure = failure

    def write(self, data: bytes) -> None:
        pass

    def finish(self) -> None:
        raise self._failure


def _load_failure(
    process: RuntimeProcess, packet: Optional[Dict[str, Any]], status: int, cancelled: bool
) -> Failure:
    what = process.place.package.module
    if cancelled:
        return Failure("cancelled", "loading %s was ended on request" % what)
    if packet is not None:
        return Failure("runtime_missing", "cannot import %s: %s" % (what, packet["failed"]))
    return Failure("runtime_missing", "importing %s ends the process (%s)" % (what, processes.ending(status)))
