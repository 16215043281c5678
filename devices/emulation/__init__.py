"""Emulated ARM boards: a whole board in QEMU, reached by SSH like any other.

``recipe`` what an image and a profile are (TOML files in ``recipes/`` and ``profiles/``), ``image``
builds images without root, ``machine`` is one QEMU process, ``saved_state`` makes starts quick, ``board``
is the board itself with its faults, ``looks`` and ``power_model`` are what it shows of itself.
"""
