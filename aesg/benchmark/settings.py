"""What a run of the benchmark is asked to do."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from aesg.errors import AESGConfigError

#: Names of the data that can be asked for.
CIFAR, GENERATED, FOLDER = "cifar10", "generated", "folder"
#: Share of the images that is judged and never trained on.
EVAL_SHARE = 0.2
#: Least number of images: four to train on, one to judge.
LEAST_IMAGES = 5
#: Least side of an image: SSIM looks through a window of 11 pixels, and crops are 7/8 of a side.
LEAST_SIDE = 16
#: Of a picture that is shown again, the share of a side that is left of it.
CROP = 7 / 8

#: The largest seed of torch's generators that is also a signed number of 64 bits.
_MOST_SEED = 2**63 - 1
#: What a quick run makes of larger numbers, and of the model.
_QUICK_IMAGES, _QUICK_SIDE, _QUICK_EPOCHS, _QUICK_BATCH = 200, 64, 3, 8
_QUICK_MODEL = {"base_filters": 8, "query_every": 2}

#: Pixels along a side for each cell that one query stands for, along its side. So a picture of the
#: default model asks from at most 64 cells: of 400 that are shown once, most is within the 16,384
#: concepts that wait in the short-term memory; of 256 cells each, the later push the earlier out.
_SIDE_FOR_ONE = 64
#: What is explained less well than this is kept: colours that differ little count too.
_NOVEL = 0.9


@dataclass(frozen=True)
class Settings:
    """The settings of a run, judged.

    Parameters
    ----------
    dataset : {"cifar10", "generated", "folder"}
    image_dir : Path or None
        Folder of the images, for "folder".
    data_dir : Path
        Where torchvision keeps CIFAR-10.
    max_images : int
        At least 5.
    image_size : int
        Pixels along a side, at least 16.
    epochs : int
    batch_size : int
    learning_rate : float
    seeds : tuple of int
    device : str
    model_options : mapping
        For `AESGColorizationNet.small`.

    Raises
    ------
    AESGConfigError
        If one is out of range.
    """

    dataset: str
    image_dir: Path | None
    data_dir: Path
    max_images: int
    image_size: int
    epochs: int
    batch_size: int
    learning_rate: float
    seeds: tuple[int, ...]
    device: str
    model_options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.dataset not in (CIFAR, GENERATED, FOLDER):
            raise AESGConfigError(
                f"dataset_name: expected '{CIFAR}' or '{GENERATED}' (or image_dir, for images of "
                f"one's own), got {self.dataset!r}"
            )
        if self.image_dir is not None and not self.image_dir.is_dir():
            raise AESGConfigError(f"image_dir: expected a folder, got '{self.image_dir}'")
        _check_least("max_images", self.max_images, LEAST_IMAGES)
        _check_least("image_size", self.image_size, LEAST_SIDE)
        _check_least("max_epochs", self.epochs, 1)
        _check_least("batch_size", self.batch_size, 1)
        if not 0 < self.learning_rate < float("inf"):
            raise AESGConfigError(
                f"learning_rate: expected a finite number > 0, got {self.learning_rate!r}"
            )

    def quickened(self) -> Settings:
        """Return settings of under a minute: at most 200 images of 64 pixels, 3 epochs."""
        return dataclasses.replace(
            self,
            max_images=min(self.max_images, _QUICK_IMAGES),
            image_size=min(self.image_size, _QUICK_SIDE),
            epochs=min(self.epochs, _QUICK_EPOCHS),
            batch_size=min(self.batch_size, _QUICK_BATCH),
            model_options={**_QUICK_MODEL, **self.model_options},
        )

    def completed(self) -> Settings:
        """Return settings that say how the memory is asked and what it keeps, unless they do."""
        every = math.ceil(self.image_size / _SIDE_FOR_ONE)
        asked = {"query_every": every, "novelty_explanation_threshold": _NOVEL}
        return dataclasses.replace(self, model_options={**asked, **self.model_options})

    @property
    def view_size(self) -> int:
        """Pixels along a side of other views of the pictures, which are cut out of them."""
        return round(CROP * self.image_size)

    def described(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values = {"dataset_name": values.pop("dataset"), **values}
        values["image_dir"] = None if self.image_dir is None else str(self.image_dir)
        values["data_dir"] = str(self.data_dir)
        return {**values, "seeds": list(self.seeds), "model_options": dict(self.model_options)}


def settings_of(**given: Any) -> Settings:
    """Return settings of what a caller gave, numbers of numpy and the like as Python's own.

    Parameters
    ----------
    **given
        By the names of `Settings`.

    Raises
    ------
    AESGConfigError
        If one is of another type or out of range.
    """
    image_dir = given["image_dir"]
    if image_dir is None and given["dataset"] == FOLDER:
        raise AESGConfigError("image_dir: expected a folder with images, got None")
    names = {"epochs": "max_epochs"}
    counts = ("max_images", "image_size", "epochs", "batch_size")
    changed = {name: _whole(names.get(name, name), given[name]) for name in counts}
    return Settings(
        **{
            **given,
            **changed,
            "dataset": given["dataset"] if image_dir is None else FOLDER,
            "image_dir": None if image_dir is None else _path("image_dir", image_dir),
            "data_dir": _path("data_dir", given["data_dir"]),
            "learning_rate": _number("learning_rate", given["learning_rate"]),
            "seeds": _seeds(given["seeds"]),
            "device": str(given["device"]),
            "model_options": _options(given["model_options"]),
        }
    )


def _seeds(seeds: Any) -> tuple[int, ...]:
    """Return seeds as they are kept."""
    if isinstance(seeds, (str, bytes, Mapping)) or not hasattr(seeds, "__iter__"):
        raise AESGConfigError(
            f"seeds: expected a list of seeds, such as [0, 1] for two trainings, got {seeds!r}"
        )
    found = tuple(_whole("seeds", seed) for seed in seeds)
    if not found or len(set(found)) < len(found):
        raise AESGConfigError(f"seeds: expected at least one, each once, got {list(found)}")
    for seed in found:
        if not 0 <= seed <= _MOST_SEED:
            raise AESGConfigError(f"seeds: expected integers in [0, {_MOST_SEED}], got {seed}")
    return found


def _options(options: Any) -> dict[str, Any]:
    """Return options of the model with numbers that JSON can hold."""
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise AESGConfigError(
            f"model_options: expected a mapping of names to values, got {options!r}"
        )
    if "storage_dir" in options:
        raise AESGConfigError(
            "model_options: expected no 'storage_dir', which is in output_dir, got "
            f"{options['storage_dir']!r}"
        )
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in options.items()
    }


def _path(name: str, path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise AESGConfigError(f"{name}: expected the path of a folder, got {path!r}")
    return Path(path)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise AESGConfigError(f"{name}: expected an integer, got {value!r}")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise AESGConfigError(f"{name}: expected a finite number > 0, got {value!r}")
    return float(value)


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise AESGConfigError(f"{name}: expected an integer >= {least}, got {value!r}")
