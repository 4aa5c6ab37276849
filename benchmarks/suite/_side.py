"""Runs in a peer's environment: calls what each line of standard input names, answers by a line.

    python _side.py PROGRAM SCRATCH

It imports nothing of ours, and numpy only where an array comes or goes.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any


class _Arrays:
    """Arrays travel as files.

    Parameters
    ----------
    scratch : Path
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._count = 0

    def load(self, value: Any) -> Any:
        """Return an argument as the program takes it."""
        if not isinstance(value, dict) or set(value) != {"npy"}:
            return value
        import numpy as np

        return np.load(value["npy"])

    def save(self, value: Any) -> Any:
        """Return an answer as JSON takes it."""
        if type(value).__module__ != "numpy" or not hasattr(value, "dtype"):
            return value
        if value.ndim == 0:
            return value.item()
        import numpy as np

        self._count += 1
        path = self._scratch / f"answer-{os.getpid()}-{self._count}.npy"
        np.save(path, value)
        return {"npy": str(path)}


def _answer(known: dict[str, Any], arrays: _Arrays, line: str) -> dict[str, Any]:
    name, arguments = json.loads(line)
    loaded = [arrays.load(each) for each in arguments]
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        found = known[name](*loaded)
    except Exception as error:  # whatever it is, the other side is told
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {"answer": arrays.save(found), **spent}


def main() -> None:
    """Serve until standard input ends."""
    program, scratch = sys.argv[1:]
    # Whatever a library prints goes to the log: the answers have the pipe to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = types.ModuleType("program")
    sys.modules[module.__name__] = module
    module.__file__ = program
    sys.path.append(str(Path(program).parent))  # last: in front, kuzu.py would hide kuzu
    exec(compile(Path(program).read_text(), program, "exec"), vars(module))
    known = vars(module)
    arrays = _Arrays(Path(scratch))
    for line in iter(sys.stdin.readline, ""):
        print(json.dumps(_answer(known, arrays, line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
