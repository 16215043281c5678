"""Which runtimes exist, in which Python packages they come, and where on this board those lie.

A runtime is a file in ``runtimes/``; its name is its name in the configuration.  A package is taken from
the board's own Python where that has it and can import it, else from a folder that was provisioned, which
is called ``runtimes/<name>-<version>`` in the agent's directory.  Only the process that loads the runtime
gets that folder on its path.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from importlib.machinery import PathFinder
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from . import runtimes
from .failures import Failure
from .files import numbers_of


class Package(NamedTuple):
    """A Python package that carries a runtime: as it is installed, and as it is imported."""

    distribution: str
    module: str


class Place(NamedTuple):
    """A package on this board; ``folder`` is None where the board's own Python has it."""

    package: Package
    folder: Optional[str]


def runtime_names() -> List[str]:
    """Names of all runtimes that there are files for."""
    return sorted(module.name for module in pkgutil.iter_modules(runtimes.__path__))


def plugin(runtime: str) -> Any:
    """The module of a runtime, which loads none of the runtime's packages yet.

    Raises:
        Failure: ``bad_option`` if there is no such runtime.
    """
    if runtime not in runtime_names():
        message = "unknown runtime %.80r; known: %s" % (runtime, ", ".join(runtime_names()))
        raise Failure("bad_option", message)
    return importlib.import_module("." + runtime, runtimes.__name__)


def places(runtime: str, directory: str) -> Iterator[Place]:
    """Where the packages of a runtime lie, in the order in which the runtime prefers them."""
    for names in plugin(runtime).PACKAGES:
        package = Package(*names)
        if importlib.util.find_spec(package.module) is not None:
            yield Place(package, None)
        for folder in provisioned(directory):
            if PathFinder.find_spec(package.module, [folder]) is not None:
                yield Place(package, folder)


def chosen(runtime: str, directory: str, wanted: str) -> List[Place]:
    """Where a runtime can be taken from, best first.

    Args:
        runtime: Its name.
        directory: The agent's own directory.
        wanted: ``package``, ``package==version``, ``==version``, or nothing for whatever there is.

    Raises:
        Failure: ``bad_option`` for a package in which the runtime does not come, ``runtime_missing`` if the
            board has none that was asked for.
    """
    package, _, version = wanted.partition("==")
    known = [names[0] for names in plugin(runtime).PACKAGES]
    if package not in ["", *known]:
        message = "%s comes in the packages %s, not in %.80r" % (runtime, ", ".join(known), package)
        raise Failure("bad_option", message)
    found = [p for p in places(runtime, directory) if package in ("", p.package.distribution)]
    if not found:
        message = "no Python package %s on the board" % (package or " or ".join(known))
        raise Failure("runtime_missing", message)
    fitting = [place for place in found if version in ("", version_of(place))]
    if not fitting:
        there = ", ".join("%s %s" % (p.package.distribution, version_of(p)) for p in found)
        raise Failure(
            "runtime_missing", "no %s of version %s on the board; it has %s" % (runtime, version, there)
        )
    return fitting


def provisioned(directory: str) -> List[str]:
    """Provisioned folders, the newest version first."""
    parent = os.path.join(directory, "runtimes")
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:
        return []
    return [os.path.join(parent, name) for name in sorted(names, key=numbers_of, reverse=True)]


def version_of(place: Place) -> str:
    """Version of a package by its metadata, without importing it."""
    # Only here, because it takes 20 ms to import.
    from importlib import metadata

    path = sys.path if place.folder is None else [place.folder]
    for found in metadata.distributions(name=place.package.distribution, path=path):
        return found.version
    return "unknown"


def installed_runtimes(directory: str) -> Dict[str, str]:
    """Versions per runtime that are on the board, the one first that is taken where none is named.

    The package is named, too, where its name is another one.
    """
    found = {}
    for runtime in runtime_names():
        versions: Dict[Tuple[str, str], None] = {}
        for place in places(runtime, directory):
            versions.setdefault((place.package.distribution, version_of(place)))
        if versions:
            found[runtime] = ", ".join(
                version if package == runtime else "%s (%s)" % (version, package)
                for package, version in versions
            )
    return found
