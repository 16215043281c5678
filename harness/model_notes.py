"""What lies beside the winners' files: how to use them, names of the classes, what is confirmed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.deployment import Kind, kind_of
from harness.file_metadata import FILE_METADATA, metadata_of
from results.confirmation import why
from results.evaluations import History
from results.front import front
from results.markdown import escape
from results.output import write_whole
from results.printable import printable
from search.tasks import Task

Written = tuple[int, Kind, Path]
"""A trial's file: its number, kind and path."""

_README = """# Models

Input `input`: float32, `(pixel - input_mean) / input_std` per channel, of {pixels} pixels; of shape
`(1, {c}, {h}, {w})` in `.onnx`, `(1, {h}, {w}, {c})` in `.tflite`. Output `logits`: {outputs}.
The numbers are in `models.json`{inside}.

```python
import json, numpy as np, onnxruntime
known = json.load(open("models.json"))
mean, std = (np.float32(known[name])[:, None, None] for name in ("input_mean", "input_std"))
session = onnxruntime.InferenceSession("{example}")
logits = session.run(None, {{"input": (pixels - mean)[None] / std}})[0]  # pixels of shape ({c}, {h}, {w})
print({answer})
```
"""


def write_notes(folder: Path, known: History, task: Task, written: Sequence[Written]) -> None:
    """Writes ``models.json``, ``README.md`` and, of classes, ``labels.txt``; without files, nothing.

    Args:
        folder: Where the files are.
        known: The run.
        task: What the models learnt.
        written: The winners' files.

    Raises:
        StoreError: If one cannot be written.
    """
    if not written:
        return
    facts: dict[str, Any] = {name: json.loads(text) for name, text in metadata_of(task).items()}
    facts["input_shape"] = list(task.input_shape)
    members = {
        t.name: {m.candidate.known.trial.number for m in front(known, t.name) if m.nominal}
        for t in known.targets
    }
    facts["files"] = {path.name: _file(known, members, number, kind, path) for number, kind, path in written}
    texts = {"models.json": json.dumps(facts, indent=2), "README.md": _readme(facts, known, task, written)}
    if task.class_names:
        texts["labels.txt"] = "".join(f"{printable(name)}\n" for name in task.class_names)
    for name, text in texts.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or path.read_bytes() != text.encode():
            write_whole(path, text.encode())


def _file(
    known: History, members: Mapping[str, Collection[int]], number: int, kind: Kind, path: Path
) -> dict[str, Any]:
    """Its hash, and on which targets it is confirmed or, one of their ``members``, not."""
    trial = next(t for t in known.trials if t.trial.number == number)
    targets = [target for target in known.targets if kind_of(target) == kind]
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "confirmed": [target.name for target in targets if target.name in trial.confirmed],
        "not_confirmed": {
            target.name: why(known, target)
            for target in targets
            if number in members[target.name] and target.name not in trial.confirmed
        },
    }


def _readme(facts: dict[str, Any], known: History, task: Task, written: Sequence[Written]) -> str:
    channels, height, width = facts["input_shape"]
    text = _README.format(
        pixels=facts["input_pixels"],
        c=channels,
        h=height,
        w=width,
        inside=" and in each file's own metadata" if known.config.get(FILE_METADATA) else "",
        outputs="classes in the order of `labels.txt`" if task.class_names else "the task's own outputs",
        example=next((path.name for _, kind, path in written if kind.file_format == "onnx"), "trial0.onnx"),
        answer='known["classes"][logits.argmax()]' if task.class_names else "logits",
    )
    missing = {
        f"- `{name}` on {target}: {escape(reason)}"
        for name, file in facts["files"].items()
        for target, reason in file["not_confirmed"].items()
    }
    return "\n".join([text, "**Not confirmed**", "", *sorted(missing), ""]) if missing else text
