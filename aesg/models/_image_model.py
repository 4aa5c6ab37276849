"""What the image models share: their factories."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from aesg.models.base import AESGModel

Image = TypeVar("Image", bound="ImageModel")


class ImageModel(AESGModel):
    """A model of images.

    Parameters
    ----------
    memory : AESGMemory
    memory_dropout : float
        As for `AESGModel`.
    """

    @classmethod
    def small(
        cls: type[Image], storage_dir: str | os.PathLike[str] | None = None, **options: Any
    ) -> Image:
        """Make one of 32 filters, 3 blocks and a 64-d memory; see `sized`."""
        return cls._preset("small", (), storage_dir, options)

    @classmethod
    def medium(
        cls: type[Image], storage_dir: str | os.PathLike[str] | None = None, **options: Any
    ) -> Image:
        """Make one of 64 filters, 4 blocks and a 128-d memory; see `sized`."""
        return cls._preset("medium", (), storage_dir, options)

    @classmethod
    def large(
        cls: type[Image], storage_dir: str | os.PathLike[str] | None = None, **options: Any
    ) -> Image:
        """Make one of 128 filters, 5 blocks and a 256-d memory; see `sized`."""
        return cls._preset("large", (), storage_dir, options)

    @classmethod
    def sized(
        cls: type[Image], storage_dir: str | os.PathLike[str] | None = None, **options: Any
    ) -> Image:
        """Make one of any size: 48 filters, 4 blocks and a 96-d memory unless told otherwise.

        Parameters
        ----------
        storage_dir : str or path, optional
            Directory of the memory. Default: ``./aesg_memory``.
        **options
            Keyword parameters of the model (``base_filters``, ``blocks``, ``top_k``, ...) and
            fields of its `AESGConfig` (``vector_dim``, ``max_concepts``, ...).

        Raises
        ------
        AESGConfigError
            If an option is of neither kind or out of range, or the memory has another
            ``vector_dim``.
        AESGStorageError
            If the directory cannot be opened.
        """
        return cls._preset("between", (), storage_dir, options)
