"""How host and agent talk: a JSON object on one line, then as many bytes as its key ``bytes`` says.

Both ends decode with :class:`Decoder`, which trusts nothing: lengths are limited, what is not an object
of finite numbers is refused.  What the objects may say is checked by who reads them.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, Tuple

REQUEST_LIMIT_BYTES = 1 << 20
REPLY_LIMIT_BYTES = 1 << 25
PAYLOAD_LIMIT_BYTES = 1 << 30

GREETING = b"\x02boardwise\n"
"""What the agent says first: a login may print things of its own before that."""

Header = Dict[str, Any]


class MessageError(ValueError):
    """What came is no message."""


def encode(header: Header, payload: bytes = b"") -> bytes:
    """A message as it goes over the wire.

    Raises:
        ValueError: If the header has no JSON form (a NaN among its values).
    """
    if payload:
        header = dict(header, bytes=len(payload))
    line = json.dumps(header, separators=(",", ":"), allow_nan=False)
    return line.encode("ascii") + b"\n" + payload


class Decoder:
    """Takes bytes as they come and gives messages in pieces, so that a large file is never held whole.

    Args:
        header_limit_bytes: Longest header line that is accepted.
        payload_limit_bytes: Most bytes that may follow one.
    """

    def __init__(self, header_limit_bytes: int, payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES) -> None:
        self._header_limit_bytes = header_limit_bytes
        self._payload_limit_bytes = payload_limit_bytes
        self._line = bytearray()
        self._header: Header = {}
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Tuple[Header, bytes, bool]]:
        """Pieces ``(header, some payload, complete)``; all pieces of a message give the same header object.

        The first piece of a message that has a payload comes with its header, before any payload.

        Raises:
            MessageError: If what came is no message; nothing after it can be read.
        """
        rest = memoryview(data)
        while len(rest):
            if self._missing:
                piece = bytes(rest[: self._missing])
                rest = rest[len(piece) :]
                self._missing -= len(piece)
                yield self._header, piece, self._missing == 0
            else:
                rest = self._take_line(rest)
                if not self._line:
                    yield self._header, b"", self._missing == 0

    def _take_line(self, rest: memoryview) -> memoryview:
        """Adds to the header line; when that is whole, ``_line`` is empty again and ``_header`` is set."""
        end = bytes(rest[: self._header_limit_bytes + 1]).find(b"\n")
        taken = len(rest) if end < 0 else end
        if len(self._line) + taken > self._header_limit_bytes:
            raise MessageError("a header of more than %d bytes" % self._header_limit_bytes)
        self._line += rest[:taken]
        if end < 0:
            return rest[taken:]
        self._header = _parse(bytes(self._line))
        self._missing = _length(self._header, self._payload_limit_bytes)
        self._line.clear()
        return rest[end + 1 :]


def _parse(line: bytes) -> Header:
    try:
        header = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise MessageError("no JSON: %r (%s)" % (line[:80], error)) from error
    if not isinstance(header, dict):
        raise MessageError("no object: %r" % line[:80])
    return header


def _refuse(word: str) -> None:
    raise ValueError("%s is no number" % word)


def _length(header: Header, limit_bytes: int) -> int:
    length = header.get("bytes", 0)
    if isinstance(length, bool) or not isinstance(length, int) or not 0 <= length <= limit_bytes:
        raise MessageError("a payload of %.80r bytes; at most %d are accepted" % (length, limit_bytes))
    return length
