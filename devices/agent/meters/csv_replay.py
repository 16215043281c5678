"""A trace in a CSV file: one that a recorder of the laboratory's own is writing, or one recorded before.

The first line names the columns.  ``clock`` says what the times [s] are:

* ``start``: seconds since the beginning; the file is played from the moment it is opened
* ``unix``: seconds since 1970, as this machine's clock has them; lines may still be added while it is read
* ``monotonic``: this machine's raw monotonic clock, in the same way
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Optional, Tuple

from ..failures import Failure
from ..metering import Facts, Glitch, Number, Sample, Text, now_ns
from ..options import Choice

OPTIONS = {
    "path": Text(""),
    "time": Text("time_s"),
    "power": Text("power_w"),
    "clock": Choice("start", ("start", "unix", "monotonic")),
    "period_s": Number(0, 0, 60),
    "time_constant_s": Number(0, 0, 60),
    "resolution_w": Number(0, 0, 100),
    "gain": Number(0, 0, 1),
    "offset_w": Number(0, 0, 10),
    "coverage": Choice("wall", ("wall", "module", "package", "rails", "battery")),
}

LINES_FOR_PERIOD = 200
SILENCE_S = 30.0


class CsvReplay:
    """A file as a meter.

    Args:
        options: As the lab file has them.
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self._options = options
        self._path = options["path"]
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115 - it stays open while it is followed
        except OSError as error:
            raise Failure(
                "meter", "%s: %s" % (self._path or "csv_replay: path is missing", error.strerror)
            ) from error
        self._rest = b""
        self._due: Optional[Tuple[float, float]] = None
        self._offset_ns = _offset_ns(options["clock"])
        self._last_line_ns = now_ns()
        try:
            self._columns = self._head()
            period_s = float(options["period_s"]) or self._usual_gap_s()
        except Failure:
            self._file.close()
            raise
        self.facts = Facts(
            source="csv_replay " + os.path.basename(self._path),
            coverage=options["coverage"],
            period_s=period_s,
            time_constant_s=float(options["time_constant_s"]),
            resolution_w=float(options["resolution_w"]),
            gain=float(options["gain"]),
            offset_w=float(options["offset_w"]),
            certain_period=True,
        )

    def read(self) -> List[Sample]:
        """The lines that have come due."""
        samples: List[Sample] = []
        now = now_ns()
        while True:
            line = self._due or self._next()
            if line is None or self._at_ns(line[0]) > now:
                self._due = line
                break
            samples.append((self._at_ns(line[0]), (line[1],)))
            self._due, self._last_line_ns = None, now
        if now - self._last_line_ns > SILENCE_S * 1e9 and self._due is None:
            raise Failure("meter", "%s: no line was added for %g s" % (self._path, SILENCE_S))
        return samples

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _head(self) -> Tuple[int, int]:
        names = [name.strip() for name in self._file.readline().decode("utf-8", "replace").split(",")]
        wanted = (self._options["time"], self._options["power"])
        for name in wanted:
            if name not in names:
                message = "%s has no column %.80r; its columns are %s" % (self._path, name, ", ".join(names))
                raise Failure("bad_option", message)
        return names.index(wanted[0]), names.index(wanted[1])

    def _usual_gap_s(self) -> float:
        place = self._file.tell()
        times = [line[0] for line in (self._next() for _ in range(LINES_FOR_PERIOD)) if line is not None]
        self._file.seek(place)
        self._rest = b""
        gaps = sorted(later - earlier for earlier, later in zip(times, times[1:]))
        if not gaps or gaps[len(gaps) // 2] <= 0:
            raise Failure(
                "meter", "%s: too few lines to tell how far apart they are; say period_s" % self._path
            )
        return gaps[len(gaps) // 2]

    def _next(self) -> Optional[Tuple[float, float]]:
        """The next whole line; None if there is none yet."""
        self._rest += self._file.readline()
        if not self._rest.endswith(b"\n"):
            return None
        line, self._rest = self._rest.decode("utf-8", "replace"), b""
        cells = line.split(",")
        try:
            return float(cells[self._columns[0]]), float(cells[self._columns[1]])
        except (IndexError, ValueError) as error:
            raise Glitch("%s has the line %.80r" % (self._path, line)) from error

    def _at_ns(self, time_s: float) -> int:
        return round(time_s * 1e9) + self._offset_ns


def open_meter(root: str, options: Dict[str, Any]) -> CsvReplay:
    """The file that the lab file names.

    Raises:
        Failure: ``meter`` if it cannot be read.
    """
    return CsvReplay(options)


def _offset_ns(clock: str) -> int:
    """From the file's clock to the agent's."""
    if clock == "monotonic":
        return 0
    return now_ns() - (time.time_ns() if clock == "unix" else 0)
