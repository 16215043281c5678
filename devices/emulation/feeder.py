"""Shows a board's sensors as a script says; runs on the board, as root, by the board's own clock.

Argument: a JSON file with ``[[seconds, {file: text or null}], ...]``; null empties a file.
"""

import json
import os
import sys
import time
from pathlib import Path

rows = json.loads(Path(sys.argv[1]).read_text())
start_s = time.monotonic()
for at_s, files in rows:
    time.sleep(max(0.0, start_s + at_s - time.monotonic()))
    for path, text in files.items():
        # In place, because meters keep their files open; digits first, so that no reader finds it empty.
        file = os.open(path, os.O_WRONLY)
        os.pwrite(file, (text or "").encode(), 0)
        os.ftruncate(file, len(text or ""))
        os.close(file)
