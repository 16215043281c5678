"""`boardwise devices check NAME --fix`: mends what can be mended without more rights than the user has.

Runtimes are brought, the frequency governor is written where it may be (``sudo -n`` is tried, which asks for
nothing), model files that a measurement can send again are removed where the disk is full.  Everything else
stays with its remedy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from devices.connection import Connection
from devices.device import DeviceEntry
from devices.interpreter import look
from devices.preflight_checks import CheckResult
from devices.provision import provision
from devices.wheels import runtimes_for
from results.errors import BoardwiseError, ProtocolError

FIX_LIMIT_S = 60.0

_GOVERNOR = r"""
import glob, json, subprocess, sys
done, failed = [], []
for path in sorted(glob.glob(sys.argv[1] + "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor")):
    try:
        with open(path, "w") as file:
            file.write("performance")
        done.append(path)
    except OSError:
        command = ["sudo", "-n", "tee", path]
        try:
            ended = subprocess.run(command, input=b"performance", stdout=-3, stderr=-3, timeout=10)
            (failed if ended.returncode else done).append(path)
        except (OSError, subprocess.TimeoutExpired):
            failed.append(path)
print("\n" + json.dumps([len(done), len(failed)]))
"""

_CACHE = r"""
import glob, json, os, sys
folder = os.path.expanduser(sys.argv[1])
files = [path for path in glob.glob(os.path.join(folder, "*", "artifacts", "*")) if os.path.isfile(path)]
size = sum(os.path.getsize(path) for path in files)
for path in files:
    os.unlink(path)
print("\n" + json.dumps([len(files), size]))
"""


def fix(
    connection: Connection, entry: DeviceEntry, results: Sequence[CheckResult], say: Callable[[str], None]
) -> list[str]:
    """Mends what the checks found, as far as that needs nobody's help.

    Args:
        connection: The way to the board.
        entry: The device.
        results: What the checks found.
        say: Told what goes on.

    Returns:
        What was done, a sentence each.
    """
    actions: dict[str, Callable[[Connection, DeviceEntry, Callable[[str], None]], str]] = {
        "disk": _empty_cache,
        "runtimes": _bring_runtimes,
        "smallest model": _bring_runtimes,
        "governor": _set_governor,
    }
    bad = [r.name for r in results if r.state in ("refused", "warning")]
    wanted = dict.fromkeys(actions[name] for name in bad if name in actions)
    done = []
    for action in wanted:
        try:
            done.append(action(connection, entry, say))
        except BoardwiseError as error:
            done.append(f"not mended: {error}")
    return done


def _bring_runtimes(connection: Connection, entry: DeviceEntry, say: Callable[[str], None]) -> str:
    names = runtimes_for(look(connection, entry.python)) or ["onnxruntime"]
    brought = [provision(connection, entry, name, version=None, say=say) for name in names]
    return "brought " + ", ".join(f"{one.package} {one.version}" for one in brought)


def _set_governor(connection: Connection, entry: DeviceEntry, say: Callable[[str], None]) -> str:
    done, failed = _numbers(connection, entry, _GOVERNOR, entry.root.rstrip("/"))
    if done and not failed:
        return f"set the governor of {done} policies to performance, until the board's next start"
    return f"not mended: the governor of {failed} policies cannot be written without asking for a password"


def _empty_cache(connection: Connection, entry: DeviceEntry, say: Callable[[str], None]) -> str:
    files, size_bytes = _numbers(connection, entry, _CACHE, entry.directory)
    return f"removed {files} model files, {size_bytes / 1e6:.0f} MB; they are sent again when they are needed"


def _numbers(connection: Connection, entry: DeviceEntry, script: str, argument: str) -> tuple[int, int]:
    done = connection.run([entry.python, "-c", script, argument], limit_s=FIX_LIMIT_S)
    try:
        first, second = json.loads(done.stdout.decode().strip().splitlines()[-1])
        return int(first), int(second)
    except (ValueError, TypeError, IndexError) as error:
        said = done.stderr[-300:].decode(errors="replace").strip()
        raise ProtocolError(connection.device, f"could not be mended: {said or error}") from error
