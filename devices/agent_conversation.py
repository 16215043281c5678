"""Questions and answers over a channel to an agent.

Every limit here is kept by the host's clock: a board's own may jump, and a hung board has none.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from devices.agent import messages
from devices.agent_replies import Refusal, clipped, read
from devices.connection import Channel
from results.errors import ConnectionLost, ProtocolError

LOGIN_TEXT_LIMIT_BYTES = 1 << 16
"""What a login may print before the agent speaks."""

PAYLOAD_LIMIT_BYTES = 1 << 28
CANCEL_LIMIT_S = 60.0
"""How long an agent that was told to give up may take to say so."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        ok: What was asked for, not yet validated; None if it was refused.
        refusal: Why not.
        payload: Bytes that belong to it.
        timed_out: Whether the agent had to be told to give up.
    """

    ok: Any = None
    refusal: Refusal | None = None
    payload: bytes = b""
    timed_out: bool = False


class Deadline:
    """A moment by the host's clock that may be moved."""

    def __init__(self, limit_s: float) -> None:
        self.started_s = time.monotonic()
        self.limit_s = limit_s

    @property
    def elapsed_s(self) -> float:
        """Time since it was set [s]."""
        return time.monotonic() - self.started_s

    @property
    def left_s(self) -> float:
        """Time until it [s], not negative."""
        return max(0.0, self.limit_s - self.elapsed_s)


class Conversation:
    """One question at a time.  Whatever goes wrong in it ends it: what came after could not be told apart.

    Args:
        device: Name of the board.
        channel: To a process on it that is about to greet.
    """

    def __init__(self, device: str, channel: Channel) -> None:
        self._device = device
        self._channel = channel
        self._decoder = messages.Decoder(messages.REPLY_LIMIT_BYTES, PAYLOAD_LIMIT_BYTES)
        self._content = bytearray()
        self._whole: deque[tuple[messages.Header, bytes]] = deque()
        self._lock = threading.Lock()
        self._number = 0
        self._over: str | None = None

    def greeting(self, limit_s: float) -> messages.Header:
        """What the agent says first; what the login printed before it is passed over.

        Raises:
            ConnectionLost: If it ends or does not speak in time.
            ProtocolError: If it says something else.
        """
        deadline, before = Deadline(limit_s), b""
        try:
            while messages.GREETING not in before:
                before += self._receive(deadline)
                if len(before) > LOGIN_TEXT_LIMIT_BYTES:
                    said = clipped(before[:80].decode(errors="replace"))
                    raise ProtocolError(self._device, f"no agent speaks, but somebody who says {said!r}")
            self._take(before.partition(messages.GREETING)[2])
            return self._next(deadline)[0]
        except TimeoutError as error:
            raise ConnectionLost(self._device, f"the agent said nothing within {limit_s:g} s") from error

    def ask(
        self,
        question: Mapping[str, Any],
        payload: bytes = b"",
        *,
        limit_s: float,
        cancel: bool = False,
        on_event: Callable[[messages.Header, Deadline], None] | None = None,
    ) -> Answer:
        """Asks and waits for the answer.

        Args:
            question: What to do.
            payload: Bytes that belong to it.
            limit_s: Longest time to wait.
            cancel: Whether the agent is told to give up after that, and stays; otherwise it is lost.
            on_event: Takes what the agent says before its answer, and may move the deadline.

        Raises:
            ConnectionLost: If the agent ended or did not answer.
            ProtocolError: If it said what it may not say.
        """
        with self._lock:
            if self._over is not None:
                raise ConnectionLost(self._device, self._over)
            try:
                return self._ask(question, payload, Deadline(limit_s), cancel, on_event)
            except BaseException as error:
                self._over = self._over or f"the conversation with its agent broke off: {error}"
                self._channel.close()
                raise

    def end(self, why: str) -> None:
        """Ends the agent; frees a thread that waits for an answer."""
        self._over = self._over or why
        self._channel.close()

    def _ask(
        self,
        question: Mapping[str, Any],
        payload: bytes,
        deadline: Deadline,
        cancel: bool,
        on_event: Callable[[messages.Header, Deadline], None] | None,
    ) -> Answer:
        self._number += 1
        self._channel.send(messages.encode({**question, "id": self._number}, payload))
        timed_out = False
        while True:
            try:
                header, content = self._next(deadline)
            except TimeoutError as error:
                if timed_out or not cancel:
                    what = f"the agent did not answer {question['do']!r} within {deadline.limit_s:g} s"
                    raise ConnectionLost(self._device, what) from error
                timed_out, deadline = True, Deadline(CANCEL_LIMIT_S)
                self._channel.send(messages.encode({"do": "cancel"}))
                continue
            if on_event is None or not {"ok", "error"}.isdisjoint(header):
                return self._answer(header, content, timed_out)
            self._check_number(header)
            if not timed_out:
                on_event(header, deadline)

    def _answer(self, header: messages.Header, content: bytes, timed_out: bool) -> Answer:
        self._check_number(header)
        if self._whole:
            raise ProtocolError(self._device, "the agent spoke without being asked")
        if set(header) - {"bytes"} == {"id", "error"}:
            return Answer(refusal=read(Refusal, header["error"], self._device), timed_out=timed_out)
        if set(header) - {"bytes"} == {"id", "ok"}:
            return Answer(ok=header["ok"], payload=content, timed_out=timed_out)
        raise ProtocolError(self._device, f"the agent's answer has the keys {clipped(str(sorted(header)))}")

    def _check_number(self, header: messages.Header) -> None:
        if header.get("id") != self._number or isinstance(header["id"], bool):
            raise ProtocolError(self._device, "the agent answered a question that was not asked")

    def _next(self, deadline: Deadline) -> tuple[messages.Header, bytes]:
        while not self._whole:
            self._take(self._receive(deadline))
        return self._whole.popleft()

    def _take(self, data: bytes) -> None:
        try:
            for header, piece, complete in self._decoder.feed(data):
                self._content += piece
                if complete:
                    self._whole.append((header, bytes(self._content)))
                    self._content.clear()
        except messages.MessageError as error:
            raise ProtocolError(self._device, f"the agent sent no message: {clipped(str(error))}") from error

    def _receive(self, deadline: Deadline) -> bytes:
        if deadline.left_s == 0:
            raise TimeoutError
        data = self._channel.receive(deadline.left_s)
        if data:
            return data
        if self._over is not None:
            raise ConnectionLost(self._device, self._over)
        time.sleep(0.05)  # stderr is another stream, and what was written to it last may not be here yet
        said = clipped(self._channel.stderr_tail().strip())
        raise ConnectionLost(self._device, f"the agent ended{': ' + said if said else ''}")
