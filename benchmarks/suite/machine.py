"""What figures were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

#: Beside CPU and versions: what may differ between runs on one machine.
OF_A_RUN = ("commit", "date", "load")
_ROOT = Path(__file__).parents[2]
_LIBRARIES = ("aesg", "faiss-cpu", "lmdb", "numpy", "torch")


def record() -> dict[str, str]:
    """Return the machine, the versions and the moment; no host name and no path."""
    return {
        "CPU": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": sys.version.split()[0],
        **{name: version(name) for name in _LIBRARIES},
        "threads": "one each",
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def is_busy() -> bool:
    """Tell whether others use the machine so much that wall-clock figures will show it."""
    return os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _commit() -> str:
    """Return the commit of this source, with a ``+`` if it was changed since."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", _ROOT, *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return f"{commit}+" if changes else commit
