"""The colorization benchmark: the same network with memory and without."""

from aesg.benchmark.baseline import BaselineCNN
from aesg.benchmark.colorization import ColorizationBenchmark
from aesg.benchmark.results import ModelResult

__all__ = ["BaselineCNN", "ColorizationBenchmark", "ModelResult"]
