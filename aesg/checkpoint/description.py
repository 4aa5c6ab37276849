"""What a model, an optimizer and a trainer are, as far as a checkpoint must fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from aesg.checkpoint.protocol import Trainer
from aesg.config import AESGConfig

#: Stands before the names within a model that torch has compiled, and in place of the model.
COMPILED = "_orig_mod"
_OURS = ("aesg.", "torch.nn.")


def describe(trainer: Trainer) -> dict[str, Any]:
    """Return what ``config.json`` holds."""
    model = own_model(trainer.model)
    config = getattr(trainer.memory, "config", None)
    return {
        "aesg_config": dataclasses.asdict(config) if isinstance(config, AESGConfig) else None,
        "trainer": {
            "batch_size": trainer.batch_size,
            "learning_rate": trainer.learning_rate,
            "criterion": None if trainer.criterion is None else _name_of(trainer.criterion),
        },
        "model": {
            "class": type(model).__name__,
            "modules": architecture(model, trainer.memory),
            "frozen": frozen(model),
        },
        "optimizer": {
            "class": type(trainer.optimizer).__name__,
            "groups": groups_of(trainer.optimizer, model),
        },
        "scheduler": None if trainer.scheduler is None else scheduler_of(trainer.scheduler),
        "versions": {"aesg": _version("aesg"), "torch": torch.__version__},
    }


def own_model(model: nn.Module) -> nn.Module:
    """Return the model that a compiled one stands for."""
    inner = getattr(model, COMPILED, None)
    return inner if isinstance(inner, nn.Module) else model


def plain_name(name: str) -> str:
    """Return the name of a parameter or module in the model as it was before it was compiled."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def architecture(model: nn.Module, memory: object | None) -> dict[str, str]:
    """Return class and sizes of every part of a model but its memory, by name."""
    hidden = set(memory.modules()) if isinstance(memory, nn.Module) else set()
    return {
        plain_name(name) or ".": f"{type(module).__name__}({', '.join(_sizes(module))})"
        for name, module in model.named_modules()
        if module not in hidden and not isinstance(getattr(module, COMPILED, None), nn.Module)
    }


def frozen(model: nn.Module) -> list[str]:
    """Return the names of the parameters that do not learn."""
    return [plain_name(name) for name, each in model.named_parameters() if not each.requires_grad]


def _sizes(module: nn.Module) -> Iterator[str]:
    """Yield what a constructor was given that parameters need not show, such as heads, strides.

    Of the parts of other libraries nothing is known: a number there may be a count.
    """
    if not type(module).__module__.startswith(_OURS):
        return
    for name, value in sorted(vars(module).items()):
        entries = value if isinstance(value, tuple) else (value,)
        if not name.startswith("_") and all(type(each) in (int, str) for each in entries):
            yield f"{name}={value!r}"


def groups_of(optimizer: Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters that an optimizer moves, group by group.

    One that is not the model's has its shape for a name.
    """
    names = {id(each): plain_name(name) for name, each in model.named_parameters()}
    return [
        [names.get(id(each), f"{tuple(each.shape)}") for each in group["params"]]
        for group in optimizer.param_groups
    ]


def scheduler_of(scheduler: object) -> str:
    """Return the class of a scheduler, and of those that it is made of."""
    parts = getattr(scheduler, "_schedulers", ())
    inner = f"({', '.join(map(scheduler_of, parts))})" if parts else ""
    return f"{type(scheduler).__name__}{inner}"


def shapes_of(state: dict[str, Any]) -> dict[str, tuple[int, ...] | str]:
    """Return the shape of each entry of a model's state, or what it is where it has none."""
    return {
        name: tuple(each.shape) if _has_shape(each) else type(each).__name__
        for name, each in state.items()
    }


def dtypes_of(state: dict[str, Any]) -> dict[str, torch.dtype]:
    """Return the type of the numbers in each tensor of a model's state."""
    return {name: each.dtype for name, each in state.items() if _has_shape(each)}


def _has_shape(entry: Any) -> bool:
    return isinstance(entry, Tensor) and not is_lazy(entry)


def _name_of(thing: object) -> str:
    return getattr(thing, "__name__", type(thing).__name__)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
