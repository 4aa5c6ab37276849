"""Torchmetrics is imported late; it and Lightning beside a torchvision that is broken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from aesg import AESGTrainingError
from aesg._imports import hidden, imported
from aesg.evaluation._library import library

PACKAGES = ("lightning", "torchmetrics", "torchvision")

#: Asks as torchmetrics does: the metadata first.
METRICS = """
from importlib.metadata import PackageNotFoundError, version
try:
    version("torchvision")
except PackageNotFoundError:
    vision = None
else:
    import torchvision as vision
from torchmetrics import text
"""


def of(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Put other packages in the place of `PACKAGES`, by their source."""
    kept = {name: module for name, module in sys.modules.items() if of(name)}
    for name in kept:
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)

    def install(**sources: str) -> None:
        for name, source in sources.items():
            package = tmp_path / name
            package.mkdir()
            (package / "__init__.py").write_text(source)
            (package / "text.py").touch()
            described = tmp_path / f"{name}-99.0.dist-info"
            described.mkdir()
            (described / "METADATA").write_text(f"Name: {name}\nVersion: 99.0\n")

    yield install
    for name in [name for name in sys.modules if of(name)]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_a_torchvision_that_works_is_left_to_torchmetrics(install: Callable[..., None]) -> None:
    install(torchmetrics=METRICS, torchvision="")
    assert library("torchmetrics").vision is sys.modules["torchvision"]


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError('operator torchvision::nms does not exist')",
        "OSError('libcudart.so.12: cannot open shared object file')",
        "ImportError('cannot import name')",
        "ModuleNotFoundError('no PIL', name='PIL')",
        "AttributeError('partially initialized module')",
    ],
)
def test_a_broken_torchvision_is_not_there_for_torchmetrics(
    install: Callable[..., None], error: str
) -> None:
    install(torchmetrics=METRICS, torchvision=f"raise {error}")
    assert library("torchmetrics").vision is None
    assert library("torchmetrics.text").__name__ == "torchmetrics.text"
    assert "torchvision" not in sys.modules
    assert version("torchvision") == "99.0"


def test_what_an_import_that_failed_has_left_does_not_matter(
    install: Callable[..., None],
) -> None:
    install(torchmetrics=METRICS, torchvision="raise RuntimeError('nms')")
    with pytest.raises(RuntimeError, match="nms"):
        import torchmetrics  # noqa: F401
    sys.modules["torchmetrics.remains"] = sys.modules["sys"]
    assert library("torchmetrics").vision is None
    assert "torchmetrics.remains" not in sys.modules


def test_lightning_is_imported_beside_a_broken_torchvision(install: Callable[..., None]) -> None:
    lightning = "import torchmetrics.text"
    install(lightning=lightning, torchmetrics=METRICS, torchvision="raise RuntimeError('nms')")
    with pytest.raises(RuntimeError, match="nms"):
        import_module("lightning")
    assert imported("lightning").torchmetrics.vision is None
    kept = sys.modules["torchmetrics"]
    assert library("torchmetrics.text") is sys.modules["torchmetrics.text"]
    assert sys.modules["torchmetrics"] is kept


def test_a_torchmetrics_that_cannot_be_imported_is_said(install: Callable[..., None]) -> None:
    install(torchmetrics="raise ImportError('no such symbol')", torchvision="")
    with pytest.raises(AESGTrainingError, match=r"ImportError: no such symbol.*pip install"):
        library("torchmetrics")


def test_a_hidden_package_comes_back_after_an_error() -> None:
    loaded = sys.modules["pytest"]
    found = version("pytest")
    with pytest.raises(ZeroDivisionError), hidden("pytest"):
        with pytest.raises(PackageNotFoundError):
            version("pytest")
        with pytest.raises(ModuleNotFoundError):
            import_module("pytest")
        assert version("torch")
        raise ZeroDivisionError
    assert sys.modules["pytest"] is loaded
    assert version("pytest") == found


@pytest.mark.long
def test_metrics_are_computed_with_the_packages_as_they_are(tmp_path: Path) -> None:
    script = """
import random, sys
import numpy, torch
from aesg.evaluation import Evaluator
assert not {"torchmetrics", "torchvision", "scipy"} & set(sys.modules)
def states():
    return str(torch.get_rng_state().tolist()), random.getstate(), repr(numpy.random.get_state())
before = states()
assert Evaluator.compute_text_metrics(["a b"], ["a b"])["bleu"] == 1
assert Evaluator.compute_image_metrics(torch.ones(1, 4, 4), torch.ones(1, 4, 4))["ssim"] == 1
assert Evaluator.compute_classification_metrics(torch.eye(3), torch.arange(3))["f1"] == 1
assert states() == before
"""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
