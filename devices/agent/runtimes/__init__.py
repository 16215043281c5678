"""Runtimes: one file each, its name is its name in the configuration.

A file has, and at top level imports only the standard library and this package:

``PACKAGES``
    Python packages that carry the runtime, ``(distribution, module to import)``, the preferred one first.
``OPTIONS``
    Name to :class:`..options.Choice`, :class:`..options.Count` or :class:`..options.Text`; ``threads`` is
    among them.
``load(module) -> library``
    Imports the package.  Raises ``ImportError`` with a reason if it cannot work here.  It starts no
    thread and touches no accelerator: sessions are forked from the process that did this.
``open_model(library, path, options) -> model``
    Loads a file, in a session's own process.

``build(library, path, options)``, optional
    Makes what a file needs once per board (a compiled engine) and keeps it; takes no time of later loads.

``placement(library, path, options) -> {provider: nodes}``
    Loads a file, runs it once and tells which provider or delegate ran how many nodes, as the runtime itself
    says.  May be slow: no figure is taken from that run.

A model has ``inputs`` (list of :class:`..arrays.Tensor`, shapes whole), ``provider`` (what really runs it),
``set_inputs(arrays)``, ``invoke()`` and ``outputs() -> arrays``.  Whatever it raises is the file's fault, but
for a failure ``bad_option``: then the board lacks what an option names.
"""
