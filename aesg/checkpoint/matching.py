"""Whether a checkpoint fits a trainer: judged before anything is changed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aesg.checkpoint import contents
from aesg.checkpoint.description import (
    architecture,
    dtypes_of,
    frozen,
    groups_of,
    own_model,
    plain_name,
    scheduler_of,
    shapes_of,
)
from aesg.checkpoint.protocol import Copyable, Trainer
from aesg.errors import AESGConfigError, AESGStorageError

Kind = TypeVar("Kind")
_EMPTY: dict[str, Any] = {}


def check_memory(folder: Path, config: Mapping[str, Any], trainer: Trainer) -> None:
    """Check that model and checkpoint both have a memory, of one width, or neither.

    Raises
    ------
    AESGStorageError
        If only one has.
    AESGConfigError
        If they differ in ``vector_dim``.
    """
    has, wants = (folder / contents.MEMORY).exists(), isinstance(trainer.memory, Copyable)
    if has != wants:
        expected, got = ("a memory", "none") if wants else ("none", "a memory")
        raise AESGStorageError(f"Checkpoint '{folder}': expected {expected} in it, got {got}")
    saved = _part(folder, config, "aesg_config", _EMPTY).get("vector_dim")
    if isinstance(trainer.memory, Copyable) and saved not in (None, trainer.memory.vector_dim):
        raise AESGConfigError(
            f"Checkpoint '{folder}': expected a memory of vector_dim={trainer.memory.vector_dim}, "
            f"got {saved}"
        )


def check_weights(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Any], trainer: Trainer
) -> None:
    """Check that a checkpoint is of a model like a trainer's.

    Raises
    ------
    AESGStorageError
        If it is not; it names the first difference.
    """
    where = f"Checkpoint '{folder}'"
    model = own_model(trainer.model)
    saved = _part(folder, config, "model", _EMPTY)
    _check_same(f"{where}: model", type(model).__name__, saved.get("class"))
    expected = {plain_name(name): each for name, each in trainer.model.state_dict().items()}
    _check_entries(f"{where}: weights", shapes_of(expected), shapes_of(dict(weights)))
    _check_entries(f"{where}: weights", dtypes_of(expected), dtypes_of(dict(weights)))
    own = architecture(model, trainer.memory)
    _check_entries(f"{where}: part", own, _part(folder, saved, "modules", own))


def warn_of_frozen(folder: Path, config: Mapping[str, Any], trainer: Trainer) -> None:
    """Warn where other parameters learn than did when the checkpoint was written."""
    own = frozen(own_model(trainer.model))
    saved = _part(folder, _part(folder, config, "model", _EMPTY), "frozen", own)
    if saved != own:
        warnings.warn(
            f"checkpoint '{folder}' was trained with {len(saved)} frozen parameters, the model has "
            f"{len(own)}: training does not go on as it was; freeze the same ones first",
            stacklevel=5,
        )


def check_scheduler(folder: Path, config: Mapping[str, Any], trainer: Trainer) -> None:
    """Check that a trainer's scheduler is of the class that was saved, where both have one.

    Raises
    ------
    AESGStorageError
        If it is of another one.
    """
    if trainer.scheduler is not None:
        expected = scheduler_of(trainer.scheduler)
        saved = _part(folder, config, "scheduler", expected)
        _check_same(f"Checkpoint '{folder}': scheduler", expected, saved)


def check_optimizer(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Any], trainer: Trainer
) -> None:
    """Check that a checkpoint is of an optimizer like a trainer's.

    Raises
    ------
    AESGStorageError
        If it is not; it names the first difference.
    """
    where, saved = f"Checkpoint '{folder}'", _part(folder, config, "optimizer", _EMPTY)
    own = trainer.optimizer
    hint = "; load(path, optimizer=False) leaves the trainer's as it is"
    _check_same(f"{where}: optimizer", type(own).__name__, saved.get("class"), hint)
    groups = groups_of(own, own_model(trainer.model))
    try:
        counts = [len(group["params"]) for group in state["param_groups"]]
    except (KeyError, TypeError) as error:
        raise AESGStorageError(
            f"{where}: optimizer: expected its state, got {str(state)[:100]}"
        ) from error
    _check_same(f"{where}: parameters of the optimizer's groups", [*map(len, groups)], counts)
    named = _part(folder, saved, "groups", groups)
    if not all(isinstance(each, list) for each in named):
        raise AESGStorageError(f"{where}: {contents.CONFIG}: expected groups of names, got {named}")
    _check_entries(f"{where}: optimizer's", _numbered(groups), _numbered(named))


def _part(folder: Path, holder: Mapping[str, Any], name: str, default: Kind) -> Kind:
    """Return an entry of ``config.json``, the default where there is none; of the same type."""
    found = holder.get(name)
    if found is None:
        return default
    if not isinstance(found, type(default)):
        raise AESGStorageError(
            f"Checkpoint file '{folder / contents.CONFIG}' is damaged: expected a "
            f"{type(default).__name__} as {name!r}, got {found!r:.80}"
        )
    return found


def _numbered(groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the names of an optimizer's parameters by their place in it."""
    return {
        f"group {number}, parameter {place}": name
        for number, group in enumerate(groups)
        for place, name in enumerate(group)
    }


def _check_entries(where: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> None:
    for name in [*expected, *(each for each in got if each not in expected)]:
        if name not in got or name not in expected or expected[name] != got[name]:
            raise AESGStorageError(
                f"{where} '{name}': expected {expected.get(name, 'none')}, "
                f"got {got.get(name, 'none')}"
            )


def _check_same(where: str, expected: Any, got: Any, hint: str = "") -> None:
    """Compare, where the checkpoint says anything of it."""
    if got is not None and expected != got:
        raise AESGStorageError(f"{where}: expected {expected}, got {got}{hint}")
