"""Shelly plugs and meters of the second generation and later, over their RPC (``Switch.GetStatus``).

A value a second of the power at the wall, supply included: for runs of two minutes and more, and models
that draw at least a watt above idle.
"""

from __future__ import annotations

from typing import Any, Dict, List

from .. import network_meter
from ..failures import Failure
from ..metering import Facts, Glitch, Number, Sample, Text, stamped

OPTIONS = {"host": Text(""), "port": network_meter.PORT, "channel": Number(0, 0, 15)}

STEP_W = 0.1


class Shelly:
    """A plug.

    Args:
        host: Its address.
        port: Its port.
        channel: Which of its switches.
    """

    def __init__(self, host: str, port: float, channel: float) -> None:
        path = "/rpc/Switch.GetStatus?id=%d" % channel
        self._plug = network_meter.JsonOverHttp("shelly", host, port, path)
        self.facts = Facts(
            source="shelly %s switch %d" % (host, channel),
            coverage="wall",
            period_s=network_meter.WALL_PERIOD_S,
            resolution_w=STEP_W,
            gain=network_meter.WALL_GAIN,
            least_s=network_meter.WALL_LEAST_S,
            least_net_w=network_meter.WALL_LEAST_NET_W,
            certain_period=True,
        )

    def read(self) -> List[Sample]:
        """The power now [W]."""
        at_ns, answer = stamped(self._plug.get)
        if not isinstance(answer, dict) or "apower" not in answer:
            raise Glitch("%s has no apower in its answer: %.80r" % (self.facts.source, answer))
        return [(at_ns, (network_meter.number(answer["apower"], "apower"),))]

    def close(self) -> None:
        """Ends the connection."""
        self._plug.close()


def open_meter(root: str, options: Dict[str, Any]) -> Shelly:
    """The plug that the lab file names.

    Raises:
        Failure: ``meter`` if it does not answer.
    """
    plug = Shelly(options["host"], options["port"], options["channel"])
    try:
        plug.read()
    except Glitch as error:
        plug.close()
        raise Failure("meter", "%s; is it on this network, and the address right?" % error) from error
    return plug
