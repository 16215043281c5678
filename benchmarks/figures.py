"""How a benchmark gives its figures: printed as JSON, and in a file where one is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_and_write(figures: Mapping[str, Any], path: Path | None) -> None:
    """Prints figures, and writes the same text to the file that ``--json`` names."""
    text = json.dumps(figures, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
