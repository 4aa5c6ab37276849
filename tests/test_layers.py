"""Imports point one way: down the tables below."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("aesg", "examples", "storage_backends", "tools")

#: The modules of aesg from top to bottom; a pattern stands for all that its matches contain. A
#: module may import from its own line and from those below it.
AESG_LAYERS = (
    ("aesg",),
    ("aesg.demo", "aesg.benchmark"),
    ("aesg.trainer",),
    (
        "aesg.callbacks",
        "aesg.checkpoint",
        "aesg.data",
        "aesg.evaluation",
        "aesg.interrupts",
        "aesg.losses",
        "aesg.trainable",
        "aesg.training",
    ),
    ("aesg.models",),
    ("aesg.nn",),
    (
        "aesg.attention",
        "aesg.binding",
        "aesg.evolution",
        "aesg.explaining",
        "aesg.explanation",
        "aesg.growth",
        "aesg.history",
        "aesg.learning",
        "aesg.memory*",
        "aesg.migration",
        "aesg.outcomes",
        "aesg.reading",
        "aesg.state",
    ),
    ("aesg.packs",),
    ("aesg.context", "aesg.graph"),
    (
        "aesg.config",
        "aesg.errors",
        "aesg.modes",
        "aesg.payload",
        "aesg.validation",
        "aesg._files",
        "aesg._imports",
        "aesg._progress",
        "aesg._seam",
        "aesg._tables",
    ),
)

#: What a package, or a part of one, never imports.
FORBIDDEN = {
    "storage_backends": ("aesg", "examples", "tools", "torch"),
    "aesg": ("examples", "tools"),
    "tools": ("examples",),
    "examples": ("storage_backends", "tools"),
    "aesg.graph": ("torch",),
}

#: The only modules that import a library.
OWNERS = {
    "faiss": ("storage_backends",),
    "lmdb": ("storage_backends",),
    "msgpack": (
        "storage_backends.codec",
        "storage_backends.manifest",
        "aesg.packs",
        "aesg.payload",
    ),
    "zstandard": ("aesg.packs",),
}

Imports = Mapping[str, set[str]]
Check = Callable[[Imports], list[str]]


def within(module: str, *parents: str) -> bool:
    return any(module == parent or module.startswith(parent + ".") for parent in parents)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str, is_package: bool, known: set[str]) -> Iterator[str]:
    """Yield what a module imports; of ``from a import b``, ``a.b`` where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in known else source


def read_imports(sources: Mapping[str, tuple[str, bool]]) -> Imports:
    """Return the imports of each module, given its source and whether it is a package."""
    return {
        module: set(imported(ast.parse(source), module, is_package, set(sources)))
        for module, (source, is_package) in sources.items()
    }


def repository() -> Imports:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return read_imports(
        {module_name(path): (path.read_text(), path.name == "__init__.py") for path in paths}
    )


def layer_of(module: str) -> int | None:
    """Return the line of `AESG_LAYERS` that a module of aesg stands on."""
    if module == "aesg":
        return 0
    for layer, names in enumerate(AESG_LAYERS[1:], start=1):
        if any(fnmatchcase(module, name) or fnmatchcase(module, f"{name}.*") for name in names):
            return layer
    return None


def upward(imports: Imports) -> list[str]:
    problems = []
    for module, targets in imports.items():
        if not within(module, "aesg"):
            continue
        layer = layer_of(module)
        if layer is None:
            problems.append(f"{module} has no place in AESG_LAYERS")
            continue
        for target in sorted(targets):
            below = layer_of(target) if within(target, "aesg") else None
            if below is not None and below < layer:
                problems.append(f"{module} imports {target}, which stands above it")
    return problems


def forbidden(imports: Imports) -> list[str]:
    return [
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target in sorted(targets)
        for part, refused in FORBIDDEN.items()
        if within(module, part) and within(target, *refused)
    ]


def disowned(imports: Imports) -> list[str]:
    return [
        f"{module} imports {library}, which belongs to {', '.join(owners)}"
        for module, targets in imports.items()
        for library, owners in OWNERS.items()
        if any(within(target, library) for target in targets) and not within(module, *owners)
    ]


def cycles(imports: Imports) -> list[str]:
    graph = {module: targets & set(imports) - {module} for module, targets in imports.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


CHECKS: tuple[Check, ...] = (upward, forbidden, disowned, cycles)


@pytest.mark.parametrize("check", CHECKS)
def test_the_repository_keeps_its_layers(check: Check) -> None:
    imports = repository()
    assert {"aesg.config", "storage_backends.types", "tools.verify"} <= set(imports)
    assert check(imports) == []


PLANTED = [
    (upward, {"aesg.nn.rnn": "from aesg.trainer import AESGTrainer", "aesg.trainer": ""}),
    (upward, {"aesg.graph.novelty": "from ..memory import AESGMemory", "aesg.memory": ""}),
    (upward, {"aesg.config": "def f():\n    import aesg.context"}),
    (upward, {"aesg.nn.rnn": "from aesg import AESGMemory", "aesg": ""}),
    (upward, {"aesg.misc": ""}),
    (forbidden, {"storage_backends.engine": "import torch.nn"}),
    (forbidden, {"storage_backends.engine": "from aesg.errors import AESGError"}),
    (forbidden, {"aesg.graph.novelty": "from torch import Tensor"}),
    (forbidden, {"aesg.memory": "from tools import verify"}),
    (forbidden, {"examples.serving.app": "from storage_backends.lmdb_store import LMDBStore"}),
    (disowned, {"aesg.memory": "import lmdb"}),
    (disowned, {"tools.verify": "from faiss import IndexFlatIP"}),
    (disowned, {"storage_backends.lmdb_store": "import msgpack"}),
    (disowned, {"aesg.memory": "import zstandard as zstd"}),
    (cycles, {"aesg.nn.a": "from . import b", "aesg.nn.b": "import aesg.nn.a"}),
]


@pytest.mark.parametrize(("check", "sources"), PLANTED)
def test_a_planted_violation_is_found_by_its_check_alone(
    check: Check, sources: dict[str, str]
) -> None:
    imports = read_imports({module: (text, False) for module, text in sources.items()})
    assert [each for each in CHECKS if each(imports)] == [check]


def test_allowed_imports_are_not_reported() -> None:
    sources = {
        "tools.verify": "from storage_backends import lmdb_store\nimport aesg.errors",
        "storage_backends.lmdb_store": "import lmdb",
        "aesg.memory": "import torch\nfrom aesg import errors, graph\nfrom .context import X",
        "aesg.memory_births": "import aesg.memory",
        "aesg.context": "import torch",
        "aesg.graph": "from .novelty import f",
        "aesg.graph.novelty": "import numpy\nfrom storage_backends.types import Ids",
        "aesg.errors": "",
        "storage_backends.types": "",
    }
    packages = {"aesg.graph"}
    imports = read_imports({name: (text, name in packages) for name, text in sources.items()})
    assert imports["aesg.graph"] == {"aesg.graph.novelty"}
    assert imports["aesg.memory"] == {"torch", "aesg.errors", "aesg.graph", "aesg.context"}
    assert [problem for check in CHECKS for problem in check(imports)] == []
