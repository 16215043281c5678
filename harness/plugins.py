"""Plug-ins by file name: a file in a plug-in folder is a plug-in of that name; nothing registers.

Third parties add theirs with entry points of the group ``boardwise.<folder>``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from functools import cache
from types import ModuleType

from results.errors import ConfigError, unknown_name
from search.user_code import blamed, installed

PACKAGES = {
    "spaces": "search.spaces",
    "strategies": "search.strategies",
    "exporters": "harness.exporters",
    "runtimes": "devices.agent.runtimes",
    "meters": "devices.agent.meters",
    "power_switches": "devices.power_switches",
}


def known(folder: str) -> list[str]:
    """Names of all plug-ins of a folder, ours and those of entry points."""
    package = importlib.import_module(PACKAGES[folder])
    ours = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return sorted({*ours, *(point.name for point in _entry_points(folder))})


def look_for(folder: str, name: str, where: str = "") -> None:
    """Raises ConfigError if there is no plug-in of a name, which begins with where the name stands."""
    if name not in known(folder):
        what = "strategy" if folder == "strategies" else folder[:-1]
        raise ConfigError(f"{where}{unknown_name(what, name, known(folder))}")


def load(folder: str, name: str) -> ModuleType:
    """The module of a plug-in.

    Raises:
        ConfigError: If there is none of that name, with the nearest that there are, or it cannot be imported.
    """
    for point in _entry_points(folder):
        if point.name == name:
            with blamed(f"entry point {point.name} = {point.value!r} of boardwise.{folder}", ConfigError):
                module = point.load()
            if not isinstance(module, ModuleType):
                raise ConfigError(f"entry point {point.value!r} of boardwise.{folder} is not a module")
            installed(module)
            return module
    look_for(folder, name)
    return importlib.import_module(f"{PACKAGES[folder]}.{name}")


@cache
def _entry_points(folder: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    # Looking for them reads the metadata of every installed distribution: some 10 ms.
    return tuple(importlib.metadata.entry_points(group=f"boardwise.{folder}"))
