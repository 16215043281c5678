"""The power controller of a Raspberry Pi 5: voltage and current of twelve rails.

Read as ``vcgencmd pmic_read_adc`` does it, through the firmware's mailbox, without starting a program:
that would disturb the board ten times a second.  The rails are read one after another, so voltage and
current are not of one moment.  What hangs on 5 V (USB, HAT, NVMe, fan) is not in any of them.

Uncalibrated it is a figure of these rails.  With ``scale`` and ``offset_w``, fitted by the board's owner
against a wall meter at five or more loads, it stands for the wall.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..failures import Failure
from ..files import read_text
from ..metering import Facts, Found, Glitch, Number, Sample, denied, stamped

OPTIONS = {"scale": Number(1.0, 0.5, 2.0), "offset_w": Number(0.0, -5.0, 5.0)}

DEVICES = ("dev/vcio_gencmd", "dev/vcio")
PROPERTY = 0xC0086400 if struct.calcsize("P") == 8 else 0xC0046400
"""``_IOWR(100, 0, char *)``."""

GENCMD_TAG = 0x00030080
TEXT_BYTES = 4096
WORDS_BEFORE_TEXT = 6
COMMAND = "pmic_read_adc"
MODELS = ("Raspberry Pi 5", "Raspberry Pi Compute Module 5", "Raspberry Pi 500")
REMEDY = "add the login to the group video: sudo usermod -aG video $USER, then log in again"

ASSUMED_PERIOD_S = 0.05
"""How often there are new values is not published; the sampler finds out."""

ASSUMED_GAIN = 0.05
"""No accuracy is published."""

_READING = re.compile(r"(\S+)_([AV])\s+\w+\(\d+\)=(-?[0-9.]+)[AV]")
Ioctl = Callable[[int, int, bytearray], Any]


def find(root: str) -> Optional[Found]:
    """Whether this is a board that has one."""
    model = _model(root)
    device = _device(root)
    if device is None or not any(name in model for name in MODELS):
        return None
    return Found(denied(device, REMEDY) or "")


class Mailbox:
    """Asks the firmware.

    Args:
        path: Its device file.
        ioctl: How it is called.
    """

    def __init__(self, path: str, ioctl: Ioctl = fcntl.ioctl) -> None:
        problem = denied(path, REMEDY)
        if problem is not None:
            raise Failure("meter", problem)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._path = path
        self._ioctl = ioctl

    def ask(self, command: str) -> str:
        """What the firmware answers to a ``vcgencmd`` command.

        Raises:
            Glitch: If it did not answer.
        """
        message = _packed(command)
        try:
            self._ioctl(self._descriptor, PROPERTY, message)
        except OSError as error:
            raise Glitch("%s: %s" % (self._path, error.strerror)) from error
        return _unpacked(bytes(message))

    def close(self) -> None:
        """Closes the device file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Pmic:
    """The rails as a meter.

    Args:
        ask: Asks the firmware.
        close: Ends the way to it.
        scale: Factor of the wall's power.
        offset_w: What is added to it.
    """

    def __init__(
        self, ask: Callable[[str], str], close: Callable[[], None], scale: float, offset_w: float
    ) -> None:
        self._ask, self._end = ask, close
        self._scale, self._offset_w = scale, offset_w
        rails = [name for name, _ in _powers(ask(COMMAND))]
        calibrated = scale != 1.0 or offset_w != 0.0
        self.facts = Facts(
            source="rpi_pmic: sum of %d rails%s" % (len(rails), ", calibrated" if calibrated else ""),
            coverage="wall" if calibrated else "rails",
            period_s=ASSUMED_PERIOD_S,
            channels=("total", *rails),
            gain=0.02 if calibrated else ASSUMED_GAIN,
            leaves_out="" if calibrated else "what hangs on 5 V: USB, HAT, NVMe, fan; uncalibrated",
        )

    def read(self) -> List[Sample]:
        """The sum of the rails, then each of them [W]."""
        at_ns, powers = stamped(lambda: [watts for _, watts in _powers(self._ask(COMMAND))])
        if len(powers) != len(self.facts.channels) - 1:
            raise Glitch("the firmware told of %d rails" % len(powers))
        total = self._scale * sum(powers) + self._offset_w
        return [(at_ns, (total, *powers))]

    def close(self) -> None:
        """Ends the way to the firmware."""
        self._end()


def open_meter(root: str, options: Dict[str, Any]) -> Pmic:
    """The power controller of this board.

    Raises:
        Failure: ``meter`` if it cannot be asked, or the board's firmware knows of no currents.
    """
    device = _device(root)
    if device is None:
        raise Failure("meter", "neither /dev/vcio_gencmd nor /dev/vcio is there: not a Raspberry Pi's system")
    mailbox = Mailbox(device)
    try:
        return Pmic(mailbox.ask, mailbox.close, options["scale"], options["offset_w"])
    except (Glitch, Failure) as error:
        mailbox.close()
        raise Failure("meter", "rpi_pmic: %s" % error) from error


def _powers(text: str) -> List[Tuple[str, float]]:
    """Rails that have both a current and a voltage, with their power [W].

    Raises:
        Failure: ``meter`` if there is none: boards before the Pi 5 measure no current.
    """
    amperes: Dict[str, float] = {}
    volts: Dict[str, float] = {}
    for name, unit, number in _READING.findall(text):
        (amperes if unit == "A" else volts)[name] = float(number)
    powers = [(name, amperes[name] * volts[name]) for name in amperes if name in volts]
    if not powers:
        raise Failure("meter", "the firmware gives no currents (only the Pi 5's does); it says %.80r" % text)
    return powers


def _packed(command: str) -> bytearray:
    """The request as the mailbox takes it: size, 0, tag, room, length, error; the text; an end tag."""
    text = command.encode("ascii") + b"\0"
    size = 4 * (WORDS_BEFORE_TEXT + 1) + TEXT_BYTES
    head = struct.pack("=6I", size, 0, GENCMD_TAG, TEXT_BYTES, 0, 0)
    return bytearray(head + text.ljust(TEXT_BYTES, b"\0") + struct.pack("=I", 0))


def _unpacked(message: bytes) -> str:
    error = struct.unpack_from("=I", message, 20)[0]
    text = message[4 * WORDS_BEFORE_TEXT :].split(b"\0", 1)[0].decode("utf-8", "replace")
    if error:
        raise Glitch("the firmware refuses (%d): %.80s" % (error, text))
    return text


def _device(root: str) -> Optional[str]:
    there = (os.path.join(root, path) for path in DEVICES)
    return next((path for path in there if os.path.exists(path)), None)


def _model(root: str) -> str:
    return read_text(os.path.join(root, "proc/device-tree/model")) or ""
