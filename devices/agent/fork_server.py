"""The process that has loaded a runtime and forks a fresh child for every session.

One per runtime, itself a fork of the agent: a runtime that crashes when it is imported takes only this
process with it, and two runtimes that need different versions of numpy do not meet.  It never creates a
model, a thread or an accelerator context: a child that inherited one could not use it.

The child of the next session is forked ahead, while nobody waits, and sleeps until it is asked: forking a
process that has loaded a runtime takes milliseconds.  Still each session has a process of its own.  It says
that it is awake before it touches the file: until then whatever ends it is not the file's doing.

It and the agent talk in packets of JSON over a socket; pipes for a session come with the packet as file
descriptors.  A session's results go through such a pipe straight from the child to the agent.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import warnings
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from . import arrays, cpus, messages, options, plateau, processes, session
from .conditions import Sensors
from .failures import Failure, describe
from .files import sha256_of
from .packages import Place, plugin, version_of

PACKET_BYTES = 1 << 17
AWAKE = b"awake"
"""What a child says once it has its request."""

CHILDREN_PER_SESSION = 3
"""How many children may die in their sleep, one after the other, before a session is given up."""

NO_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate", "cannot allocate memory", "out of memory")


class Child(NamedTuple):
    """A child that sleeps until it is asked, and then runs one session."""

    pid: int
    orders: socket.socket


class ForkServer:
    """What runs in that process.

    Args:
        control: Its end of the socket to the agent.
        runtime: Name of the runtime.
        place: Where its package lies.
        root: Where the board's file tree starts.
        sensors: For the sessions.
    """

    def __init__(
        self, control: socket.socket, runtime: str, place: Place, root: str, sensors: Sensors
    ) -> None:
        self._control = control
        self._plugin = plugin(runtime)
        self._runtime = runtime
        self._place = place
        self._sensors = sensors
        self._library: Any = None
        self._cpus = cpus.fastest_first(root, os.sched_getaffinity(0))
        self._libc = processes.load_libc()

    def serve(self, parent: int) -> None:
        """Loads the runtime, then forks a child per request, until the agent's end closes."""
        processes.die_with_parent(self._libc, parent)
        # numpy's own linear algebra would start threads when it is imported, and a fork would lose them.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        if self._place.folder is not None:
            sys.path.insert(0, self._place.folder)
        try:
            self._library = self._plugin.load(self._place.package.module)
        except Exception as error:  # noqa: BLE001 - a broken package may raise anything; the host is told
            self._say({"failed": describe(error)})
            return
        version = version_of(self._place)
        if version == "unknown":
            version = str(getattr(self._library, "__version__", version))
        # A runtime may keep a thread of its own; newer Pythons warn of a fork beside one each time.
        warnings.simplefilter("ignore", DeprecationWarning)
        arrays.random_arrays([], 0)  # numpy loads its generators when they are first used: once, and here
        gc.collect()
        gc.freeze()  # children then share these pages for good, and their collections are short
        self._say({"loaded": version})
        spare = self._fork()
        while True:
            request, descriptors = receive(self._control)
            if request is None:
                return
            if request["do"] != "kill":
                self._run(spare, request, descriptors)
                spare = self._fork()

    def _fork(self) -> Child:
        orders, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            orders.close()
            self._control.close()
            processes.die_with_parent(self._libc, parent)
            processes.run_and_exit(lambda: self._be_session(inside))
        inside.close()
        return Child(pid, orders)

    def _run(self, child: Child, request: Dict[str, Any], descriptors: List[int]) -> None:
        """Has a child run a session; one that is killed in its sleep, for its memory perhaps, is replaced."""
        for left in reversed(range(CHILDREN_PER_SESSION)):
            with contextlib.suppress(ConnectionError):  # it has gone already
                send(child.orders, request, descriptors)
            awake, killed = self._watch(child)
            if awake or killed or not left:
                break
            self._collect(child)
            child = self._fork()
        for descriptor in descriptors:
            os.close(descriptor)
        if awake:
            self._watch(child)
        self._say({"ended": self._collect(child), "began": awake})

    def _watch(self, child: Child) -> Tuple[bool, bool]:
        """Waits until a child speaks or ends; whether it spoke, and whether it was killed on request.

        Its number is its own until it is collected, so a kill hits it.
        """
        control, orders = self._control.fileno(), child.orders.fileno()
        killed = False
        while True:
            ready, _, _ = select.select([orders, control], [], [])
            if orders in ready:
                return _hears(child), killed
            request, _ = receive(self._control)
            os.kill(child.pid, signal.SIGKILL)
            killed = True
            if request is None:
                os._exit(0)

    def _collect(self, child: Child) -> int:
        """Waits for the end of a child that ends; its wait status."""
        child.orders.close()
        return os.waitpid(child.pid, 0)[1]

    def _be_session(self, orders: socket.socket) -> None:
        """Sleeps until asked; ``orders`` stays open, so that its end tells the end of the process."""
        request, descriptors = receive(orders)
        if request is None:
            return
        results, errors = descriptors[:2]
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        processes.prefer_as_oom_victim()
        orders.send(AWAKE)

        def emit(header: Mapping[str, Any], payload: bytes) -> None:
            processes.write_all(results, messages.encode(dict(header), payload))

        failure = self._attempt(request, descriptors[2:], emit)
        if failure is not None:
            emit({"error": failure.reply()}, b"")

    def _attempt(self, request: Dict[str, Any], payloads: List[int], emit: session.Emit) -> Optional[Failure]:
        try:
            self._session(request, payloads, emit)
        except Failure as failure:
            return failure
        except MemoryError:
            return Failure("out_of_memory", "Python could not allocate memory")
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises is the file's fault
            text = describe(error)
            no_memory = any(word in text.lower() for word in NO_MEMORY)
            return Failure("out_of_memory" if no_memory else "refused", text)
        return None

    def _session(self, request: Dict[str, Any], payloads: List[int], emit: session.Emit) -> None:
        known = options.read(self._runtime, self._plugin.OPTIONS, request["options"])
        os.sched_setaffinity(0, self._cpus[: known["threads"]])

        def open_model() -> Any:
            return self._plugin.open_model(self._library, request["path"], known)

        if hasattr(self._plugin, "build"):
            self._plugin.build(self._library, request["path"], known)
        if request["do"] == "placement":
            nodes = self._plugin.placement(self._library, request["path"], known)
            emit({"result": {"nodes": nodes, "sha256": sha256_of(request["path"])}}, b"")
        elif request["do"] != "outputs":
            measure = session.measure if request["do"] == "session" else plateau.measure
            measure(open_model, self._sensors, dict(request, threads=known["threads"]), emit)
        else:
            session.answer(open_model, request, _content(payloads[0]), emit)

    def _say(self, packet: Dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(packet).encode("ascii"))
        except OSError:
            os._exit(0)  # the agent has gone


def _hears(child: Child) -> bool:
    """Whether a child speaks; it has ended otherwise."""
    try:
        return bool(child.orders.recv(len(AWAKE)))
    except ConnectionError:  # it has ended without taking its request
        return False


def send(to: socket.socket, packet: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Sends a packet with file descriptors.

    Raises:
        OSError: If nobody is at the other end.
    """
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    to.sendmsg([json.dumps(packet).encode("ascii")], [rights] if descriptors else [])


def receive(source: socket.socket) -> Tuple[Optional[Dict[str, Any]], List[int]]:
    """The next packet and the descriptors that came with it; None at the end."""
    room = socket.CMSG_SPACE(3 * array.array("i").itemsize)
    data, ancillary, _, _ = source.recvmsg(PACKET_BYTES, room)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return (json.loads(data) if data else None), list(descriptors)


def _content(descriptor: int) -> bytes:
    """All of a file that was written through another descriptor of it."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
