"""Laboratory power meters and supplies that answer SCPI on a TCP socket (usually port 5025).

``query`` is asked for every sample.  An answer of one number is the power [W]; of two (``"MEAS:VOLT?;CURR?"``
gives ``5.02;0.61``), voltage and current.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List

from .. import network_meter
from ..failures import Failure
from ..metering import Facts, Glitch, Number, Sample, Text, stamped
from ..options import Choice

OPTIONS = {
    "host": Text(""),
    "port": Number(5025, 1, 65535),
    "query": Text("MEAS:POW?"),
    "period_s": Number(0.1, 0.001, 60),
    "resolution_w": Number(0, 0, 100),
    "gain": Number(0.001, 0, 1),
    "coverage": Choice("wall", ("wall", "module", "package", "rails")),
}


class Scpi:
    """An instrument.

    Args:
        options: As the lab file has them.
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self._lines = network_meter.Lines("scpi", options["host"], options["port"])
        self._query = options["query"]
        name = ",".join(self._lines.ask("*IDN?").split(",")[:2])
        self.facts = Facts(
            source="scpi %s: %s" % (name or options["host"], self._query),
            coverage=options["coverage"],
            period_s=float(options["period_s"]),
            resolution_w=float(options["resolution_w"]),
            gain=float(options["gain"]),
            certain_period=True,
        )
        self.read()

    def read(self) -> List[Sample]:
        """The power now [W]."""
        at_ns, power_w = stamped(self._power_w)
        return [(at_ns, (power_w,))]

    def close(self) -> None:
        """Ends the connection."""
        self._lines.close()

    def _power_w(self) -> float:
        answer = self._lines.ask(self._query)
        parts = [network_meter.number(part, self._query) for part in re.split("[;,]", answer)]
        if len(parts) > 2:
            raise Glitch(
                "scpi: %s is answered by %.80r; one or two numbers are wanted" % (self._query, answer)
            )
        return parts[0] * parts[1] if len(parts) == 2 else parts[0]


def open_meter(root: str, options: Dict[str, Any]) -> Scpi:
    """The instrument that the lab file names.

    Raises:
        Failure: ``meter`` if it does not answer.
    """
    try:
        return Scpi(options)
    except Glitch as error:
        raise Failure("meter", "%s; is it on this network, and the address right?" % error) from error
