"""Judges a configuration, all parameters at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aesg.config import AESGConfig
from aesg.errors import MESSAGE_LIMIT, AESGConfigError
from aesg.modes import MemoryMode

_HEADER = "Configuration validation failed:"
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

#: The longest value that a message quotes, in characters.
_VALUE_LIMIT = 60


class _Rule(Protocol):
    def problem(self, value: Any) -> str | None:
        """Return what was expected, or None where the value is good."""
        ...


@dataclass(frozen=True)
class _Integer:
    low: int
    high: int | None = None

    def problem(self, value: Any) -> str | None:
        # An exact type: True is an int to Python, and not a size to anyone.
        if type(value) is int and value < self.low:
            return f"integer >= {self.low}"
        if type(value) is int and (self.high is None or value <= self.high):
            return None
        return f"integer >= {self.low}" if self.high is None else f"integer in {self._range()}"

    def _range(self) -> str:
        return f"[{self.low}, {self.high}]"


@dataclass(frozen=True)
class _Float:
    low: float
    high: float = math.inf
    low_excluded: bool = False

    def problem(self, value: Any) -> str | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and self._holds(value):
            return None
        if self.high == math.inf:
            return f"finite float {'>' if self.low_excluded else '>='} {self.low}"
        return f"float in [{self.low}, {self.high}]"

    def _holds(self, value: float) -> bool:
        # Compared with the largest float instead of math.isfinite, which a huge int overflows.
        high = min(self.high, sys.float_info.max)
        return self.low <= value <= high and not (self.low_excluded and value == self.low)


@dataclass(frozen=True)
class _Boolean:
    def problem(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else "True or False"


@dataclass(frozen=True)
class _Choice:
    names: tuple[str, ...]

    def problem(self, value: Any) -> str | None:
        if isinstance(value, str) and value in self.names:
            return None
        return f"one of {list(self.names)}"


@dataclass(frozen=True)
class _Path:
    def problem(self, value: Any) -> str | None:
        if value is None or (isinstance(value, str) and value):
            return None
        return "a path or None"


#: Hops that activation may travel: a retrieval keeps the path of each concept, which has room for
#: as many. Even with a decay of 0.9 hardly 0.001 of an activation would be left after them.
MOST_STEPS = 64

_COUNT = _Integer(1)
_FRACTION = _Float(0.0, 1.0)

#: One rule for every field of `AESGConfig`.
_RULES: dict[str, _Rule] = {
    "vector_dim": _Integer(1, 8192),
    "max_concepts": _COUNT,
    "max_edges_per_node": _COUNT,
    "spreading_activation_steps": _Integer(1, MOST_STEPS),
    "spreading_activation_decay": _FRACTION,
    "spreading_activation_frontier": _Integer(0),
    "region_facilitation_multiplier": _Float(0.0),
    "novelty_explanation_threshold": _FRACTION,
    "novelty_birth_threshold": _COUNT,
    "consolidation_epoch_interval": _COUNT,
    "survival_threshold_relevance": _FRACTION,
    "survival_threshold_frequency": _Integer(0),
    "prune_confidence_threshold": _FRACTION,
    "coactivation_threshold_create": _COUNT,
    "merge_similarity_threshold": _FRACTION,
    "split_density_threshold": _COUNT,
    "abstraction_enabled": _Boolean(),
    "region_detection_interval": _COUNT,
    "max_events": _COUNT,
    "learning_rate": _Float(0.0, low_excluded=True),
    "batch_size": _COUNT,
    "memory_mode": _Choice(tuple(mode.value for mode in MemoryMode)),
    "durability": _Choice(("full", "normal")),
    "storage_directory": _Path(),
    "log_level": _Choice(_LOG_LEVELS),
}


def validate(config: AESGConfig) -> None:
    """Check every parameter of a configuration.

    Parameters
    ----------
    config : AESGConfig
        The configuration to judge.

    Raises
    ------
    AESGConfigError
        If any parameter is outside its type or range. The message names every such parameter, one
        a line, as far as 500 characters reach, and says how many more there are.
    """
    if not isinstance(config, AESGConfig):
        raise AESGConfigError(f"Configuration: got {type(config).__name__}, expected AESGConfig")
    problems = []
    for name, rule in _RULES.items():
        value = getattr(config, name)
        expected = rule.problem(value)
        if expected is not None:
            problems.append(f"Parameter '{name}': got {_quote(value)}, expected {expected}")
    if problems:
        raise AESGConfigError(_message(problems))


def _quote(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _VALUE_LIMIT else text[: _VALUE_LIMIT - 3] + "..."


def _message(problems: Sequence[str]) -> str:
    """Join whole lines within the limit of a message; the last line counts those left out."""
    for kept in range(len(problems), 0, -1):
        lines = [_HEADER, *problems[:kept]]
        if kept < len(problems):
            lines.append(f"... and {len(problems) - kept} more")
        text = "\n".join(lines)
        if len(text) <= MESSAGE_LIMIT:
            break
    return text
