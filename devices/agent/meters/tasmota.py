"""Plugs that run Tasmota, over its web commands (``Status 8``).

The power at the wall, supply included, once a second, in whole watts unless ``PowerRes`` says otherwise:
for runs of two minutes and more, and models that draw at least a watt above idle.
"""

from __future__ import annotations

from typing import Any, Dict, List
from urllib.parse import quote

from .. import network_meter
from ..failures import Failure
from ..metering import Facts, Glitch, Number, Sample, Text, stamped

OPTIONS = {
    "host": Text(""),
    "port": network_meter.PORT,
    "channel": Number(1, 1, 16),
    "user": Text("admin"),
    "password": Text(""),
}

WHOLE_WATTS = 1.0
FRACTIONS_W = 0.1


class Tasmota:
    """A plug.

    Args:
        options: As the lab file has them.
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        login = ""
        if options["password"]:
            login = "user=%s&password=%s&" % (quote(options["user"]), quote(options["password"]))
        path = "/cm?%scmnd=Status%%208" % login
        self._plug = network_meter.JsonOverHttp("tasmota", options["host"], options["port"], path)
        self._channel = int(options["channel"])
        first = self._power()
        self.facts = Facts(
            source="tasmota %s channel %d" % (options["host"], self._channel),
            coverage="wall",
            period_s=network_meter.WALL_PERIOD_S,
            resolution_w=WHOLE_WATTS if isinstance(first, int) else FRACTIONS_W,
            gain=network_meter.WALL_GAIN,
            least_s=network_meter.WALL_LEAST_S,
            least_net_w=network_meter.WALL_LEAST_NET_W,
            certain_period=True,
        )

    def read(self) -> List[Sample]:
        """The power now [W]."""
        at_ns, power = stamped(self._power)
        return [(at_ns, (network_meter.number(power, "Power"),))]

    def close(self) -> None:
        """Ends the connection."""
        self._plug.close()

    def _power(self) -> Any:
        """As the plug gives it: a list where it has several channels."""
        answer = self._plug.get()
        try:
            power = (answer.get("StatusSNS") or answer["Status8"])["ENERGY"]["Power"]
            return power[self._channel - 1] if isinstance(power, list) else power
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise Glitch("tasmota: no power in the answer %.80r" % (answer,)) from error


def open_meter(root: str, options: Dict[str, Any]) -> Tasmota:
    """The plug that the lab file names.

    Raises:
        Failure: ``meter`` if it does not answer.
    """
    try:
        return Tasmota(options)
    except Glitch as error:
        raise Failure("meter", "%s; is it on this network, and the address right?" % error) from error
