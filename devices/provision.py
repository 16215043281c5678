"""Brings a runtime to a board that needs neither pip nor the internet.

The host finds the wheels for the board's Python, machine and C library (:mod:`devices.wheels`,
:mod:`devices.wheel_index`), the connection carries them over, the board's own Python unpacks them
(:mod:`devices.unpack`) into ``<directory>/1/runtimes/<package>-<version>/``, and a fresh process there
runs a small model before the runtime counts as brought.  Where the newest release is installed but does
not start, older ones are tried.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from devices import smoke, unpack
from devices.connection import Completed, Connection
from devices.device import DeviceEntry
from devices.interpreter import Interpreter, look, require
from devices.wheel_index import NoWheel, Wheel, obtain
from devices.wheels import PACKAGES, Offer, offers
from results.errors import BoardDiskFull, ConfigError, ProvisionError, unknown_name
from results.records import FORMATS

LAYOUT = "1"
"""Number of the folder layout on the board."""

_UNPACK_LIMIT_S = 600.0
_SMOKE_LIMIT_S = 300.0  # the first import of a runtime from an SD card takes its time

_MODULES = {
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}

# Arguments: folder (none if empty), package, module, inputs as JSON.  The model comes on stdin.
_SMOKE = r"""
import importlib, json, os, sys
from importlib import metadata
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
folder, package, module, inputs = *sys.argv[1:4], json.loads(sys.argv[4])
sys.path[:0] = [folder] if folder else []
runtime = importlib.import_module(module)
import numpy
model, x = sys.stdin.buffer.read(), numpy.array([inputs], dtype=numpy.float32)
if module == "onnxruntime":
    y = runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
else:
    interpreter = runtime.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
version = getattr(runtime, "__version__", None) or metadata.version(package)
found = {"file": runtime.__file__, "version": version, "numpy": numpy.__version__, "outputs": y[0].tolist()}
print("\n" + json.dumps(found))
"""


@dataclass(frozen=True)
class Provisioned:
    """A runtime that was brought to a board and ran a model there.

    Attributes:
        runtime: ``onnxruntime`` or ``tflite``.
        package: Distribution that provides it.
        version: Its version.
        numpy: Version of the NumPy that it ran with.
        folder: Where it lies on the board; empty where it is the board's own.
        size_bytes: Size of the wheels that were carried over; 0 if it was there already.
        skipped: What was tried before and why it was not taken.
    """

    runtime: str
    package: str
    version: str
    numpy: str
    folder: str
    size_bytes: int
    skipped: tuple[str, ...] = ()


def provision(
    connection: Connection,
    entry: DeviceEntry,
    runtime: str,
    *,
    version: str | None = None,
    beside: bool = False,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Provisioned:
    """Brings a runtime to a board and shows that it works there.

    Args:
        connection: The way to the board.
        entry: The device: its Python and directory.
        runtime: ``onnxruntime`` or ``tflite``.
        version: Release of the package; the newest that fits by default.
        beside: Whether other releases that were brought stay there; targets choose with
            ``package = "<package>==<version>"``.
        cache: Where wheels and lock files are kept on this host.
        say: Told what is being done, in short sentences.

    Raises:
        ConfigError: If there is no runtime of that name.
        PreflightError: If the board's Python is missing, too old or of a kind that is not supported.
        ProvisionError: If no wheel exists or none that exists works there.
        BoardDiskFull: If the board has no room for it.
    """
    if runtime not in FORMATS:
        raise ConfigError(unknown_name("runtime", runtime, FORMATS))
    interpreter = look(connection, entry.python)
    require(entry.name, interpreter)
    work = _Provisioning(
        connection, entry, interpreter, cache or platformdirs.user_cache_path("boardwise") / "wheels", say
    )
    skipped: list[str] = []
    tried: set[str] = set()
    for offer in offers(entry.name, interpreter, runtime, version):
        try:
            return work.try_offer(offer, tried, skipped, beside=beside)
        except (NoWheel, _DoesNotStart) as error:
            skipped.append(error.message)
            say(error.message)
    raise ProvisionError(entry.name, f"no {runtime} works on {interpreter.title}: {'; '.join(skipped)}")


def board_own(connection: Connection, entry: DeviceEntry, runtime: str) -> Provisioned | None:
    """The runtime that the board's own Python has and that runs a model there, such as JetPack's; or None."""
    for package in PACKAGES[runtime]:
        arguments = ["", package, _MODULES[package], json.dumps(smoke.INPUTS)]
        done = connection.run(
            [entry.python, "-c", _SMOKE, *arguments],
            limit_s=_SMOKE_LIMIT_S,
            stdin=smoke.model(FORMATS[runtime]),
        )
        with suppress(ProvisionError):
            answer = _answer(entry.name, done, f"{package} does not run a model")
            if answer.get("outputs") == list(smoke.OUTPUTS):
                return Provisioned(runtime, package, str(answer["version"]), str(answer["numpy"]), "", 0)
    return None


class _DoesNotStart(ProvisionError):
    """The runtime was unpacked but does not run a model there."""


@dataclass(frozen=True)
class _Provisioning:
    connection: Connection
    entry: DeviceEntry
    interpreter: Interpreter
    cache: Path
    say: Callable[[str], None]

    def try_offer(self, offer: Offer, tried: set[str], skipped: list[str], *, beside: bool) -> Provisioned:
        self.say(f"looking for {offer.package} {offer.version or '(newest)'} for {self.interpreter.title}")
        wheels, files = obtain(self.entry.name, offer, self.interpreter, self.cache)
        title = f"{wheels[0].name}-{wheels[0].version}"
        if title in tried:
            raise _DoesNotStart(self.entry.name, f"{title} was tried already")
        tried.add(title)
        folder = posixpath.join(self.entry.directory, LAYOUT, "runtimes", title)
        size_bytes = self._bring(wheels, files, folder)
        try:
            numpy = self._smoke_test(offer, title, folder)
        except _DoesNotStart:
            self.connection.run(["rm", "-rf", "--", folder])
            raise
        if not beside:
            self._remove_others(wheels[0].name, folder)
        return Provisioned(
            offer.runtime, offer.package, wheels[0].version, numpy, folder, size_bytes, tuple(skipped)
        )

    def _bring(self, wheels: list[Wheel], files: Path, folder: str) -> int:
        """Carries wheels over and has them unpacked, unless they are there; gives the bytes carried."""
        marker = self.connection.run(["cat", posixpath.join(folder, unpack.MARKER)])
        if marker.returncode == 0 and marker.stdout.decode() == json.dumps([w.sha256 for w in wheels]):
            self.say(f"{posixpath.basename(folder)} is there already")
            return 0
        incoming = posixpath.join(self.entry.directory, LAYOUT, "incoming")
        arguments, size_bytes = [], 0
        for wheel in wheels:
            data = (files / wheel.filename).read_bytes()
            path = posixpath.join(incoming, f"{wheel.sha256}.whl")
            self.say(f"carrying over {wheel.filename} ({len(data) / 1e6:.1f} MB)")
            self.connection.put(data, path)
            arguments += [wheel.sha256, path]
            size_bytes += len(data)
        self.say("unpacking")
        source = Path(unpack.__file__).read_bytes()
        done = self.connection.run(
            [self.entry.python, "-I", "-S", "-", folder, *arguments], limit_s=_UNPACK_LIMIT_S, stdin=source
        )
        answer = _answer(self.entry.name, done, "unpacking failed")
        if answer.get("error") == "disk":
            raise BoardDiskFull(self.entry.name, f"no room for {folder}: {answer.get('message')}")
        if not answer.get("ok"):
            raise ProvisionError(self.entry.name, f"{folder}: {answer.get('message')}")
        return size_bytes

    def _smoke_test(self, offer: Offer, title: str, folder: str) -> str:
        """Runs a model in a fresh process; gives the version of NumPy there."""
        self.say(f"running a small model with {title}")
        module, inputs = _MODULES[offer.package], json.dumps(smoke.INPUTS)
        done = self.connection.run(
            [self.entry.python, "-c", _SMOKE, folder, offer.package, module, inputs],
            limit_s=_SMOKE_LIMIT_S,
            stdin=smoke.model(FORMATS[offer.runtime]),
        )
        what = f"{title} is installed but does not run a model"
        answer = _answer(self.entry.name, done, what, _DoesNotStart)
        if answer.get("outputs") != list(smoke.OUTPUTS):
            raise _DoesNotStart(
                self.entry.name, f"{title} computes {answer.get('outputs')}, not {smoke.OUTPUTS}"
            )
        if posixpath.basename(folder) not in str(answer.get("file")):
            raise _DoesNotStart(self.entry.name, f"{answer.get('file')} was imported, not {folder}")
        return str(answer.get("numpy"))

    def _remove_others(self, package: str, folder: str) -> None:
        """Other releases of a package go, so that there is no doubt which one runs."""
        parent, kept = posixpath.split(folder)
        others = ["-mindepth", "1", "-maxdepth", "1", "-name", f"{package}-*", "!", "-name", kept]
        self.connection.run(["find", parent, *others, "-exec", "rm", "-rf", "--", "{}", "+"])


def _answer(
    device: str, done: Completed, what: str, kind: type[ProvisionError] = ProvisionError
) -> dict[str, Any]:
    """The JSON object on the last line that a script of ours printed."""
    said = done.stderr.decode(errors="replace").strip()[-500:]
    if done.returncode != 0:
        raise kind(device, f"{what} (exit status {done.returncode}): {said or 'it said nothing'}")
    try:
        answer = json.loads(done.stdout.decode().strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise kind(device, f"{what}: {done.stdout[-200:]!r} {said}") from error
    if not isinstance(answer, dict):
        raise kind(device, f"{what}: it answered {answer!r}")
    return answer
