"""Asks the person at the terminal: whether to trust a host key, and for passphrases and passwords."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.terminal import ask_hidden, say

if TYPE_CHECKING:
    from devices.device import AskSecret, DeviceEntry
    from devices.host_keys import HostKey
    from devices.registry import Lab


def ask_secret() -> AskSecret | None:
    """What asks for passphrases and passwords at the terminal; None where there is no terminal."""
    return ask_hidden if sys.stdin.isatty() else None


def trust_host(entry: DeviceEntry, lab: Lab, fingerprints: Sequence[str]) -> None:
    """Has the host keys on the way to a device trusted, jump hosts first; never without somebody's word.

    Args:
        entry: The device.
        lab: Its lab; trusted keys are kept beside the lab file.
        fingerprints: Keys to trust without asking.

    Raises:
        HostKeyError: If a key is not trusted, or is another one than was trusted.
        BoardError: If the device cannot be reached.
    """
    from devices.device import connect_ssh
    from devices.host_keys import trust
    from results.errors import HostKeyError

    with connect_ssh(entry, ask_secret=ask_secret()) as connection:
        while not (key := connection.fetch_host_key()).trusted:
            if key.fingerprint not in fingerprints:
                _ask_trust(entry.name, key, fingerprints)
            trust(key, lab.known_hosts)
        if fingerprints and key.fingerprint not in fingerprints:
            raise HostKeyError(
                entry.name,
                f"{key.name} shows {key.fingerprint}, which was trusted before, but --fingerprint says"
                f" {' or '.join(fingerprints)}",
            )


def _ask_trust(device: str, key: HostKey, fingerprints: Sequence[str]) -> None:
    """Asks the person at the terminal.

    Raises:
        HostKeyError: If there is nobody to ask, or the answer is no.
    """
    from results.errors import HostKeyError

    shown = f"{key.name} shows the {key.algorithm} key {key.fingerprint}"
    compare = "compare it with what the board itself says: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
    if fingerprints:
        raise HostKeyError(device, f"{shown}, but --fingerprint says {' or '.join(fingerprints)}; {compare}")
    if not sys.stdin.isatty():
        raise HostKeyError(
            device,
            f"{shown}, which is not trusted yet, and there is no terminal to ask at; {compare}, then give it"
            f" with --fingerprint {key.fingerprint}",
        )
    say(f"{shown}.\nTo be sure, {compare}")
    if input("Trust it? Type yes or no: ").strip().lower() != "yes":
        raise HostKeyError(device, f"the host key {key.fingerprint} was not trusted; nothing was added")
