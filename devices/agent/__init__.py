"""What runs on a board: standard library only at top level, Python >= 3.8, relative imports.

It travels as one archive (``devices/agent_archive.py``) and is gone when its host leaves.  Three kinds of
processes: the agent (:mod:`.server`) forks one per runtime (:mod:`.fork_server`), which forks one per
session (:mod:`.session`).
"""
