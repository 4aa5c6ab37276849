"""The packs of a memory: loaded from files, attached to a handle, and detached again."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from operator import index
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from aesg import binding, memory_kept
from aesg._progress import reporting
from aesg._seam import storage_errors
from aesg.config import AESGConfig
from aesg.errors import AESGMemoryError, AESGStorageError
from aesg.memory_attached import MOST_PACKS, AttachedPack, Missing, attached, weighed
from aesg.memory_exchange import MemoryExchange
from aesg.modes import MemoryMode
from aesg.state import MemoryState
from storage_backends.progress import Progress

if TYPE_CHECKING:
    from aesg.packs.pack import Pack

#: Of a pack that is attached without saying one.
DEFAULT_PRIORITY = 50
_GREATEST_PRIORITY = 100
_LONGEST_NAME = 200

_log = logging.getLogger("aesg.memory")


class MemoryPacks(MemoryExchange):
    """How an `AESGMemory` loads packs, and has their concepts beside its own.

    What is attached belongs to this handle, as its mode does. Neither the memory nor the pack
    changes by it.

    Parameters
    ----------
    directory, config
        As for `AESGMemory`.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, config: AESGConfig | None) -> None:
        super().__init__(directory, config)
        self._attached: tuple[AttachedPack, ...] = ()

    def load_pack(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        public_key: str | bytes | os.PathLike[str] | None = None,
        progress: bool | Progress | None = None,
    ) -> Pack:
        """Read a pack from its file; the memory stays as it is until the pack is attached.

        The checksum is compared before anything is decoded, and all of the content is examined.

        Parameters
        ----------
        path : str or path
            An ``.aesgpack`` file, of this release or of release 3.0.
        name : str, optional
            By which the pack is detached, at most 200 characters. Default: that in the file, else
            the file's name without its ending.
        public_key : str, bytes or path, optional
            An Ed25519 key: 32 bytes, 64 hexadecimal digits, or PEM. Only a pack that was signed
            with its private key is read then.
        progress : bool or callable, optional
            Whether there are bars on standard error; None shows them on a terminal from two
            seconds on. A callable is told step, done and total.

        Returns
        -------
        Pack

        Raises
        ------
        AESGStorageError
            If there is no such file, or it is no pack, or is damaged, or not signed as asked, or
            its concepts are of another ``vector_dim``.
        AESGMemoryError
            If ``name`` is none.
        AESGConfigError
            If ``public_key`` is none.
        """
        from aesg.packs import cache, signature

        width = self._state.vector_dim
        _check_name(name)
        key = None if public_key is None else signature.read_public_key(public_key)
        file = _text_of(path)
        with storage_errors(f"read pack file '{file}'"), reporting(progress) as report:
            return cache.load(file, name=name, vector_dim=width, public_key=key, progress=report)

    def attach_pack(
        self,
        pack: Pack,
        priority: int = DEFAULT_PRIORITY,
        *,
        keep: bool = False,
        progress: bool | Progress | None = None,
    ) -> None:
        """Let the retrievals of this handle find the concepts of a pack beside its own.

        In every mode. A retrieval that is under way in another thread goes on without the pack.

        Parameters
        ----------
        pack : Pack
            What `load_pack` returned.
        priority : int
            From 0 to 100. The activation of the pack's seeds is multiplied by its share of the
            priorities of all packs that are attached; with 0 the pack takes no part.
        keep : bool
            Whether the memory keeps the pack: its file is copied into the directory, and every
            handle that opens the memory from now on has it attached; copies, checkpoints and
            `restore` take it along. One of this name that is kept already is replaced, in one step
            for whoever opens the memory; where it is the same, its priority alone. Retrievals wait
            while the file is copied.
        progress : bool or callable, optional
            As for `load_pack`: a pack of many concepts gets a seed index when it is first attached.

        Raises
        ------
        AESGMemoryError
            If 16 packs are attached, or one of this name is and they are not both to be kept, or
            the priority is out of range, or the pack is to be kept and this handle only reads or is
            in INFERENCE.
        AESGStorageError
            If its concepts are of another ``vector_dim``, or it is to be kept and cannot be
            written.
        """
        from aesg.packs import cache
        from aesg.packs.graph import view_of

        wanted, state = _priority(priority), self._state
        self._check_pack(pack)
        if keep:
            self._require_keeping("keep a pack")
        self._place_for(pack, keep=keep)
        with storage_errors(f"attach pack '{pack.name}'"), reporting(progress) as report:
            pack = cache.indexed(pack, report)
            view_of(pack)  # made now, and not in the first retrieval
        with state.lock.alone():
            earlier = self._place_for(pack, keep=keep)
            later = attached(pack, wanted, kept=keep)
            if earlier is not None and _is_same(earlier.pack, pack):
                later = replace(earlier, priority=wanted)
            if keep:
                pack = memory_kept.keep(state, self.directory, later.pack, wanted)
                later = replace(later, pack=pack)
            self._put(earlier, later)
        if keep:
            self._mark_what_is_kept(state)

    @overload
    def detach_pack(self, name: str) -> Pack: ...

    @overload
    def detach_pack(self, name: str, *, forget: bool) -> Pack | None: ...

    def detach_pack(self, name: str, *, forget: bool = False) -> Pack | None:
        """Let the retrievals of this handle find the concepts of a pack no more.

        The memory and the other packs are unaffected but for the weights, which sum to one again.
        A retrieval that is under way in another thread goes on with the pack.

        Parameters
        ----------
        name : str
        forget : bool
            Whether the memory keeps it no more, if it does. If not, the next handle that opens the
            memory has it attached again.

        Returns
        -------
        Pack or None
            Loaded as before: it can be attached again. None where one was forgotten that is not
            attached.

        Raises
        ------
        AESGMemoryError
            If no pack of this name is attached, nor kept if it is to be forgotten; or this handle
            is to forget one and only reads or is in INFERENCE.
        AESGStorageError
            If what is kept cannot be written.
        """
        if forget:
            self._require_keeping("forget a pack")
        state = self._state
        with state.lock.alone():
            found = self._find(name)
            forgotten = forget and memory_kept.forget(state, self.directory, name)
            if found is None and not forgotten:
                raise self._no_pack(name)
            self._attached = weighed(each for each in self._attached if each is not found)
        if forgotten:
            self._mark_what_is_kept(state)
        return None if found is None else memory_kept.on_its_own(found.pack)

    def set_pack_priority(self, name: str, priority: int, *, keep: bool = False) -> None:
        """Give an attached pack another priority; the weights of all change with it.

        Parameters
        ----------
        name : str
        priority : int
            From 0 to 100.
        keep : bool
            Whether the memory keeps the pack with this priority, as for `attach_pack`.

        Raises
        ------
        AESGMemoryError
            If no pack of this name is attached, or the priority is out of range, or it is to be
            kept and this handle only reads or is in INFERENCE.
        AESGStorageError
            If it is to be kept and cannot be written.
        """
        wanted, state = _priority(priority), self._state
        if keep:
            self._require_keeping("keep a pack")
        with state.lock.alone():
            found = self._find(name)
            if found is None:
                raise self._no_pack(name)
            changed = replace(found, priority=wanted)
            if keep:
                pack = memory_kept.keep(state, self.directory, found.pack, wanted)
                changed = replace(changed, pack=pack, kept=True)
            self._put(found, changed)
        if keep:
            self._mark_what_is_kept(state)

    def get_attached_packs(self) -> dict[str, AttachedPack]:
        """Return the packs that are attached, by their names, in the order of attachment."""
        return {each.name: each for each in self._attached}

    def get_pack_weights(self) -> dict[str, float]:
        """Return what the activation of each pack's seeds is multiplied by.

        They sum to one, unless all priorities are 0: then each is 0.
        """
        return {each.name: each.weight for each in self._attached}

    def extra_repr(self) -> str:
        """Describe the handle for `print`; opens nothing."""
        said, names = super().extra_repr(), [each.name for each in self._attached]
        return f"{said}, packs={names}" if names else said

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take in the state of a handle; it goes on without packs that cannot be read again."""
        packs = state["_attached"]
        there = [each for each in packs if isinstance(each, AttachedPack)]
        for each in packs:
            if isinstance(each, Missing):
                _log.warning(
                    "memory '%s' is without its pack '%s': %s; put the file back and load this "
                    "again, or attach the pack with attach_pack(memory.load_pack(path))",
                    state["directory"],
                    each.name,
                    each.reason,
                )
        given = there if len(there) == len(packs) else weighed(there)
        super().__setstate__({**state, "_attached": tuple(given)})  # type: ignore[no-untyped-call]

    def _require_keeping(self, what: str) -> None:
        self._require_writing(what)
        if self.mode is MemoryMode.INFERENCE:
            raise AESGMemoryError(
                f"Memory '{self.directory}': expected a mode that writes to {what}, got INFERENCE; "
                "call set_mode('ONLINE') first"
            )

    def _place_for(self, pack: Pack, *, keep: bool) -> AttachedPack | None:
        """Return the attached pack that another is to replace, if any; check that it may."""
        found = self._find(pack.name)
        if found is not None:
            if keep and (found.kept or pack.name in memory_kept.named(self._state)):
                return found
            raise _name_taken(found, keep=keep)
        if len(self._attached) >= MOST_PACKS:
            raise AESGMemoryError(
                f"Pack '{pack.name}': expected at most {MOST_PACKS} attached packs, got one more; "
                "detach one first"
            )
        return None

    def _put(self, earlier: AttachedPack | None, later: AttachedPack) -> None:
        """Attach a pack, in the place of an earlier one if there is one."""
        packs = [later if each is earlier else each for each in self._attached]
        self._attached = weighed(packs if earlier is not None else [*packs, later])

    def _mark_what_is_kept(self, state: MemoryState) -> None:
        """Have all handles of this process say of each pack whether the memory keeps it."""
        holds = binding.holds_on(self.directory)  # which no lock of a state may be held around
        with state.lock.alone():
            packs = memory_kept.named(state)
            for held, handle in holds:
                if isinstance(handle, MemoryPacks):
                    with held.lock.alone():
                        handle._attached = tuple(
                            replace(each, kept=memory_kept.is_of(each.pack, packs))
                            for each in handle._attached
                        )

    def _attach_kept(self, state: MemoryState) -> None:
        """Attach the packs that the memory keeps, in the place of those that it kept before.

        A handle does so when it opens the memory, and after a `restore`.
        """
        kept = memory_kept.kept_of(state, self.directory, self.vector_dim)
        with state.lock.alone():
            others = [each for each in self._attached if not each.kept]
            names = {each.name for each in others}
            room = MOST_PACKS - len(others)
            fitting = [each for each in kept if each.name not in names][:room]
            if len(fitting) < len(kept):
                _log.warning(
                    "memory '%s': %d of its packs are not attached: this handle has others of "
                    "their names, or too many",
                    self.directory,
                    len(kept) - len(fitting),
                )
            self._attached = weighed([*fitting, *others])

    def _find(self, name: str) -> AttachedPack | None:
        return next((each for each in self._attached if each.name == name), None)

    def _no_pack(self, name: str) -> AESGMemoryError:
        names = ", ".join(repr(each.name) for each in self._attached) or "none"
        return AESGMemoryError(
            f"Pack: expected the name of an attached one ({names}), got {name!r}"
        )


def _is_same(one: Pack, other: Pack) -> bool:
    return (one.version, one.digest, one.signer) == (other.version, other.digest, other.signer)


def _name_taken(found: AttachedPack, *, keep: bool) -> AESGMemoryError:
    name = found.name
    if found.kept:
        hint = "attach_pack(..., keep=True) replaces the kept one"
    elif keep:
        hint = f"set_pack_priority({name!r}, priority, keep=True) keeps the attached one"
    else:
        hint = f"set_pack_priority({name!r}, priority) changes its priority"
    return AESGMemoryError(
        f"Pack '{name}' is attached: expected another name; {hint}, detach_pack({name!r}) makes "
        "room for another, or load the file with load_pack(path, name=...)"
    )


def _check_name(name: object) -> None:
    """Check that something can be the name of a pack; None stands for the pack's own."""
    if name is None:
        return
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise AESGMemoryError(
            f"Pack name: expected text of 1 to {_LONGEST_NAME} characters that can be printed, got "
            f"{name!r}"
        )


def _text_of(path: Any) -> str:
    """Return the path of a pack file as text."""
    try:
        text = os.fspath(path)
        if isinstance(text, str) and "\0" not in text:
            return text
    except TypeError:
        pass
    raise AESGStorageError(f"Failed to read pack file {path!r}: expected a path of text")


def _priority(given: Any) -> int:
    """Return a priority as an integer."""
    try:
        priority = -1 if isinstance(given, bool | np.bool_) else index(given)
    except TypeError:
        priority = -1
    if not 0 <= priority <= _GREATEST_PRIORITY:
        raise AESGMemoryError(
            f"priority: expected an integer from 0 to {_GREATEST_PRIORITY}, got {given!r}"
        )
    return int(priority)
