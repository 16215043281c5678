"""Looks at a study's boards before it begins: refuses what no measurement may ignore, says the rest."""

from __future__ import annotations

from devices.agent_client import AgentClient
from devices.device import AskSecret, DeviceEntry, connect
from devices.preflight import check, examine, refuse
from devices.preflight_checks import CheckResult
from harness.config import switch_of
from harness.progress import Watcher


def look_at(entry: DeviceEntry, holder: str, watcher: Watcher, ask_secret: AskSecret | None) -> None:
    """Examines a board over a connection of its own, which is closed again.

    Args:
        entry: The device; one that replays is no board and is passed over.
        holder: What others are told who find the board taken.
        watcher: Told what is not as it should be but refuses nothing.
        ask_secret: Asks for passphrases and passwords.

    Raises:
        PreflightError: If the board may not be measured as it is, with the remedies.
        BoardError: If it cannot be reached.
    """
    if entry.connection == "replay":
        return
    switch = switch_of(entry)
    try:
        if switch is not None:
            switch.on()
        results = _results(entry, holder, ask_secret)
    finally:
        if switch is not None:
            switch.release()  # the study has a switch of its own, and stops what that has started
    refuse(entry.name, results)
    for result in results:
        if result.state == "warning":
            said = f"{result.found}, wanted {result.wanted}; {result.remedy}"
            watcher.note(f"  {entry.name}: {result.name}: {said}")


def _results(entry: DeviceEntry, holder: str, ask_secret: AskSecret | None) -> list[CheckResult]:
    with connect(entry, ask_secret=ask_secret) as connection:
        return check(
            examine(
                connection,
                entry,
                lambda c: AgentClient.start(
                    c, python=entry.python, directory=entry.directory, holder=holder, root=entry.root
                ),
            )
        )
