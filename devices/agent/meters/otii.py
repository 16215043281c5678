"""Otii Arc and Ace, by the package ``otii-tcp-client``; their server must run, and have a licence.

The server records; what has come since the last reading is fetched, current times the set voltage, and
averaged over blocks, since thousands of values a second are more than a run of seconds needs.
"""

from __future__ import annotations

from typing import Any, Dict, List

from ..failures import Failure, describe
from ..metering import Facts, Number, Sample, Text, now_ns
from ..options import Choice

OPTIONS = {
    "host": Text("127.0.0.1"),
    "port": Number(1905, 1, 65535),
    "device": Text(""),
    "coverage": Choice("rails", ("rails", "module", "wall")),
}

PERIOD_S = 0.01
GAIN = 0.005
CONNECT_LIMIT_S = 10
CURRENT = "mc"


class Otii:
    """A device that records.

    Args:
        server: The package's client, connected.
        device: One of its devices.
        coverage: What it is wired to.
    """

    def __init__(self, server: Any, device: Any, coverage: str) -> None:
        self._server, self._device = server, device
        device.add_to_project()
        device.enable_channel(CURRENT, True)
        self._volts = float(device.get_main_voltage())
        self._project = server.get_active_project()
        before_ns = now_ns()
        self._project.start_recording()
        self._start_ns = (before_ns + now_ns()) // 2
        self._recording = self._project.get_last_recording()
        self._index = 0
        self.facts = Facts(
            source="otii %s, %g V" % (device.name, self._volts),
            coverage=coverage,
            period_s=PERIOD_S,
            gain=GAIN,
            certain_period=True,
        )

    def read(self) -> List[Sample]:
        """Means over blocks of about :data:`PERIOD_S` [W], at the middle of each."""
        count = self._recording.get_channel_data_count(self._device.id, CURRENT) - self._index
        if count <= 0:
            return []
        data = self._recording.get_channel_data(self._device.id, CURRENT, self._index, count)
        interval_s, amperes = float(data["interval"]), data["values"]
        size = max(1, round(PERIOD_S / interval_s))
        samples: List[Sample] = []
        for first in range(0, len(amperes) - size + 1, size):
            middle_s = float(data["timestamp"]) + (first + (size - 1) / 2) * interval_s
            power_w = self._volts * sum(amperes[first : first + size]) / size
            samples.append((self._start_ns + int(middle_s * 1e9), (power_w,)))
        self._index += len(samples) * size
        return samples

    def close(self) -> None:
        """Stops recording."""
        self._project.stop_recording()
        self._server.disconnect()


def open_meter(root: str, options: Dict[str, Any]) -> Otii:
    """The device that the lab file names, or the only one that the server has.

    Raises:
        Failure: ``meter`` if the package, the server or the device is missing.
    """
    try:
        from otii_tcp_client import otii_client, otii_exception
    except ImportError as error:
        message = (
            "the package otii-tcp-client is missing (%s): python3 -m pip install otii-tcp-client" % error
        )
        raise Failure("meter", message) from error
    try:
        server = otii_client.OtiiClient().connect(
            host=options["host"], port=int(options["port"]), try_for_seconds=CONNECT_LIMIT_S
        )
        devices = [d for d in server.get_devices() if options["device"] in ("", d.name)]
        if len(devices) != 1:
            raise Failure("meter", "otii: %d devices fit; name one with device" % len(devices))
        return Otii(server, devices[0], options["coverage"])
    except (OSError, otii_exception.Otii_Exception, otii_client.OtiiClientException) as error:
        raise Failure(
            "meter", "otii at %s:%d: %s" % (options["host"], options["port"], describe(error))
        ) from error
