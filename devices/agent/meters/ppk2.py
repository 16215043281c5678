"""Nordic's Power Profiler Kit II, by the package ``ppk2-api``; for boards of up to 5 V and 1 A.

It measures current a hundred thousand times a second; the voltage is what it supplies itself (``source``)
or what the lab file says.  The package decodes in Python, which takes most of a core: plug it into another
machine than the board.
"""

from __future__ import annotations

from typing import Any, Dict, List

from ..failures import Failure, describe
from ..metering import COUNTER, Facts, Glitch, Number, Sample, Text, now_ns
from ..options import Choice

OPTIONS = {
    "port": Text(""),
    "volts": Number(5.0, 0.8, 5.0),
    "mode": Choice("ampere", ("ampere", "source")),
    "coverage": Choice("rails", ("rails", "module", "wall")),
}

PERIOD_S = 0.02
GAIN = 0.02
SILENCE_S = 1.0
REMEDY = "add the login to the group dialout: sudo usermod -aG dialout $USER, then log in again"


class Ppk2:
    """A kit; mean current times voltage times time, added up.

    Args:
        kit: Of the package, connected.
        options: As the lab file has them.
    """

    def __init__(self, kit: Any, options: Dict[str, Any]) -> None:
        self._kit = kit
        self._volts = float(options["volts"])
        kit.get_modifiers()
        kit.set_source_voltage(round(1000 * self._volts))
        if options["mode"] == "source":
            kit.use_source_meter()
            kit.toggle_DUT_power("ON")
        else:
            kit.use_ampere_meter()
        kit.start_measuring()
        self._energy_j = 0.0
        self._last_ns = now_ns()
        self.facts = Facts(
            source="ppk2 %s, %g V (%s)" % (options["port"], self._volts, options["mode"]),
            coverage=options["coverage"],
            period_s=PERIOD_S,
            kind=COUNTER,
            gain=GAIN,
        )

    def read(self) -> List[Sample]:
        """Energy since it was opened [J]."""
        data, at_ns = self._kit.get_data(), now_ns()
        if not data:
            if at_ns - self._last_ns > SILENCE_S * 1e9:
                raise Failure("meter", "%s has gone silent; was it unplugged?" % self.facts.source)
            return []
        micro_amperes = self._kit.get_samples(data)[0]
        if not micro_amperes:
            return []
        mean_a = sum(micro_amperes) / len(micro_amperes) / 1e6
        self._energy_j += mean_a * self._volts * (at_ns - self._last_ns) / 1e9
        self._last_ns = at_ns
        return [(at_ns, (self._energy_j,))]

    def close(self) -> None:
        """Stops it; a board that it supplies stays on."""
        self._kit.stop_measuring()


def open_meter(root: str, options: Dict[str, Any]) -> Ppk2:
    """The kit at the serial port that the lab file names, or the only one.

    Raises:
        Failure: ``meter`` if the package or the kit is missing.
    """
    try:
        from ppk2_api.ppk2_api import PPK2_API
    except ImportError as error:
        message = "the package ppk2-api is missing (%s): python3 -m pip install ppk2-api" % error
        raise Failure("meter", message) from error
    try:
        port = options["port"] or _only_port(PPK2_API)
        kit = PPK2_API(port, timeout=1, write_timeout=1, exclusive=True)
        return Ppk2(kit, dict(options, port=port))
    except (OSError, Glitch) as error:  # the package's serial errors are OSErrors
        raise Failure("meter", "ppk2: %s; %s" % (describe(error), REMEDY)) from error


def _only_port(api: Any) -> str:
    ports = [device[0] if isinstance(device, tuple) else device for device in api.list_devices()]
    if len(ports) != 1:
        raise Failure(
            "meter", "ppk2: %d kits found (%s); name one with port" % (len(ports), ", ".join(ports))
        )
    return str(ports[0])
