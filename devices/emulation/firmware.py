"""The firmware's mailbox of a Raspberry Pi 5, as far as its power is asked; runs on the board, as root.

``/dev/vcio_gencmd`` is a character device in user space (CUSE: the kernel's fs/fuse/cuse.c and
include/uapi/linux/fuse.h), so that what reads the real controller reads this one in the same way.  Voltages
and currents come from the power that ``POWER`` shows at the moment: a model's, not a measurement.

Argument: power at rest [W].  Only the standard library; the board imports nothing else of Boardwise.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from pathlib import Path

DEVICE = "vcio_gencmd"
POWER = Path("/run/board/power_w")
"""Power of all rails [W]; empty while the sensors are silent."""

MESSAGE_BYTES = 4 * 7 + 4096
TEXT_AT = 4 * 6
TAG = 0x00030080
ERROR_AT = 20

# Name, voltage [V], share of the power at rest.  What is drawn beyond rest goes into the cores.
RAILS = (
    ("3V7_WL_SW", 3.70, 0.04),
    ("3V3_SYS", 3.31, 0.08),
    ("1V8_SYS", 1.80, 0.12),
    ("DDR_VDD2", 1.11, 0.04),
    ("DDR_VDDQ", 0.61, 0.01),
    ("1V1_SYS", 1.11, 0.09),
    ("0V8_SW", 0.80, 0.14),
    ("VDD_CORE", 0.80, 0.40),
    ("3V3_DAC", 3.31, 0.01),
    ("3V3_ADC", 3.31, 0.01),
    ("0V8_AON", 0.80, 0.01),
    ("HDMI", 5.10, 0.05),
)
CORES = "VDD_CORE"

# Of include/uapi/linux/fuse.h: requests, flags, and the fixed parts of messages.
CUSE_INIT, OPEN, RELEASE, FLUSH, INTERRUPT, IOCTL = 4096, 14, 18, 25, 36, 39
UNRESTRICTED_IOCTL, IOCTL_RETRY = 1, 4
IN_HEADER = struct.Struct("=IIQQIIII")
OUT_HEADER = struct.Struct("=IiQ")
INIT_OUT = struct.Struct("=18I")
OPEN_OUT = struct.Struct("=QII")
IOCTL_IN = struct.Struct("=QIIQII")
IOCTL_OUT = struct.Struct("=iIII")
IOVEC = struct.Struct("=QQ")
VERSION = (7, 31)
GREATEST_REQUEST = 1 << 16


def readings(power_w: float, rest_w: float) -> str:
    """What the firmware says to ``pmic_read_adc`` at a power; the rails add up to it."""
    lines = []
    for number, (name, volts, share) in enumerate(RAILS):
        watts = share * min(power_w, rest_w) + (max(0.0, power_w - rest_w) if name == CORES else 0.0)
        lines.append(f"{name}_A current({number})={watts / volts:.8f}A")
    lines += [f"{name}_V volt({8 + number})={volts:.8f}V" for number, (name, volts, _) in enumerate(RAILS)]
    return "\n".join(" " + line for line in lines) + "\n"


def answered(message: bytes, shown: str, rest_w: float) -> bytes:
    """A mailbox message with the firmware's answer in it.

    Args:
        message: As the caller gave it: six words, a text that ends with a zero byte, a word.
        shown: Power at the moment as text; empty while the sensors are silent.
        rest_w: Power at rest.
    """
    tag = struct.unpack_from("=I", message, 8)[0]
    command = message[TEXT_AT:].split(b"\0", 1)[0].decode("ascii", "replace")
    text, error = "", 0
    if tag != TAG or command != "pmic_read_adc":
        text, error = 'error=1 error_msg="Command not registered"', 1
    elif not shown.strip():
        text, error = 'error=2 error_msg="no answer from the power controller"', 2
    else:
        text = readings(float(shown), rest_w)
    answer = bytearray(message)
    struct.pack_into("=I", answer, ERROR_AT, error)
    answer[TEXT_AT : len(answer) - 4] = text.encode().ljust(len(answer) - 4 - TEXT_AT, b"\0")
    return bytes(answer)


def replied(request: bytes, shown: str, rest_w: float) -> bytes | None:
    """The reply to one request of the kernel; None where none is wanted."""
    _, what, unique, *_ = IN_HEADER.unpack_from(request)
    body = request[IN_HEADER.size :]
    if what == INTERRUPT:
        return None
    if what == CUSE_INIT:
        fields = (*VERSION, 0, UNRESTRICTED_IOCTL, GREATEST_REQUEST // 2, GREATEST_REQUEST // 2)
        return _reply(unique, INIT_OUT.pack(*fields, *[0] * 12) + f"DEVNAME={DEVICE}\0".encode())
    if what == OPEN:
        return _reply(unique, OPEN_OUT.pack(1, 0, 0))
    if what in (RELEASE, FLUSH):
        return _reply(unique)
    if what == IOCTL:
        return _reply(unique, _ioctl(body, shown, rest_w))
    return OUT_HEADER.pack(OUT_HEADER.size, -errno.ENOSYS, unique)


def serve(rest_w: float) -> None:
    """Answers the kernel until the board is switched off."""
    cuse = os.open("/dev/cuse", os.O_RDWR)
    while True:
        request = os.read(cuse, GREATEST_REQUEST)
        reply = replied(request, POWER.read_text(), rest_w)
        if reply is not None:
            os.write(cuse, reply)


def _ioctl(body: bytes, shown: str, rest_w: float) -> bytes:
    _, _, _, address, given, room = IOCTL_IN.unpack_from(body)
    if not given or not room:
        # How much of the caller's memory is meant is not in the request; the kernel asks again with it.
        where = IOVEC.pack(address, MESSAGE_BYTES)
        return IOCTL_OUT.pack(0, IOCTL_RETRY, 1, 1) + where + where
    return IOCTL_OUT.pack(0, 0, 0, 0) + answered(body[IOCTL_IN.size :][:MESSAGE_BYTES], shown, rest_w)


def _reply(unique: int, body: bytes = b"") -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, unique) + body


if __name__ == "__main__":
    serve(float(sys.argv[1]))
