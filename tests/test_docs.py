"""The documentation runs, and names what there is to run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

FENCE = re.compile(r"^(`{3,})(\w*)[^`]*$")
NOT_RUN = re.compile(r"^<!-- not run: (.*)-->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its first line in the page, and why it is not run."""

    language: str
    line: int
    code: str
    not_run: str | None


def blocks(text: str) -> Iterator[Block]:
    fence, language, first, code = "", "", 0, list[str]()
    reason: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if fence and line.strip() == fence:
            yield Block(language, first, "\n".join(code), reason)
            fence, reason = "", None
        elif fence:
            code.append(line)
        elif opened := FENCE.match(line):
            fence, language, first, code = opened[1], opened[2], number + 1, []
        elif marked := NOT_RUN.match(line.strip()):
            reason = marked[1].strip()
        elif line.strip():
            reason = None
    assert not fence, f"the block at line {first} has no end"


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page.read_text()) if block.language == "python"]


def run(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    # Empty lines above the code make a traceback point at the line of the page.
    code = "\n" * (block.line - 1) + block.code
    exec(compile(code, str(page), "exec"), namespace)


def commands(text: str) -> tuple[set[str], set[str]]:
    """Return the modules and the make targets that a page tells its reader to run."""
    modules = set(re.findall(r"python3? -m ((?:aesg|examples|tools)(?:\.\w+)*)", text))
    targets = set(re.findall(r"^(?:\$ )?make ([\w-]+)|`make ([\w-]+)[^`]*`", text, re.MULTILINE))
    return modules, {first or second for first, second in targets}


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")  # Lightning
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in python_blocks(page):
        if block.not_run is None:
            run(block, page, namespace)
        else:
            assert block.not_run, f"{page.name}:{block.line} gives no reason for not being run"
            ast.parse(block.code)


def test_the_readme_shows_python_that_runs() -> None:
    assert any(block.not_run is None for block in python_blocks(ROOT / "README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    modules, targets = commands(page.read_text())
    assert [name for name in sorted(modules) if find_spec(name) is None] == []
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(targets - set(known)) == []


def test_every_tool_is_named_in_the_documentation() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    tools = [f"tools.{path.stem}" for path in sorted((ROOT / "tools").glob("[!_]*.py"))]
    assert "tools.verify" in tools
    assert [tool for tool in tools if f"python -m {tool}" not in text] == []


PAGE = """\
```python
x = 1
```

<!-- not run: takes an hour -->
```python
raise SystemExit
```

<!-- not run: -->

```python
pass
```

text between the mark and the block

```sh
make demo
$ make test-long
python -m tools.verify DIR
```

Run `make bench` or `python -m aesg.demo --quick` to make progress.
"""


def test_blocks_are_found_with_their_lines_and_their_reasons() -> None:
    assert [(block.language, block.line, block.not_run) for block in blocks(PAGE)] == [
        ("python", 2, None),
        ("python", 7, "takes an hour"),
        ("python", 13, ""),
        ("sh", 19, None),
    ]


def test_commands_are_found_in_blocks_and_in_the_text() -> None:
    assert commands(PAGE) == ({"tools.verify", "aesg.demo"}, {"demo", "test-long", "bench"})


def test_a_failing_block_is_reported_at_its_line_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\nx.missing\n```\n")
    (block,) = python_blocks(page)
    with pytest.raises(AttributeError) as caught:
        run(block, page, {})
    assert caught.traceback[-1].lineno == 5 - 1  # counted from zero
    assert str(caught.traceback[-1].path) == str(page)
