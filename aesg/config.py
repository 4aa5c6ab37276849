"""The parameters of a memory."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from types import NoneType
from typing import Any

from aesg.errors import AESGConfigError


@dataclass(frozen=True)
class AESGConfig:
    """All parameters of a memory; immutable, and stored in the directory it belongs to.

    Any value can be given here; `aesg.validation.validate` judges them where they are first used.

    Parameters
    ----------
    vector_dim : int
        Width of keys and vector values, in components. Range: [1, 8192].
    max_concepts : int
        Concepts beyond which the weakest are pruned. Range: >= 1.
    max_edges_per_node : int
        Out-edges that one concept keeps; the weakest yield. Range: >= 1.
    spreading_activation_steps : int
        Hops that activation travels. Range: [1, 64].
    spreading_activation_decay : float
        Share of activation that survives one hop. Range: [0, 1].
    spreading_activation_frontier : int
        Concepts that pass activation on in one hop, the most active ones; 0 lets all. Range: >= 0.
    region_facilitation_multiplier : float
        Factor of an edge's share when it stays in the query's dominant region. Range: >= 0.
    novelty_explanation_threshold : float
        Explanation score below which a query is novel. Range: [0, 1].
    novelty_birth_threshold : int
        Confirmations that turn a provisional concept into a born one, the first meeting included.
        Range: >= 1.
    consolidation_epoch_interval : int
        Topology updates from one consolidation to the next. Range: >= 1.
    survival_threshold_relevance : float
        Relevance below which an old, rarely used concept is pruned. Range: [0, 1].
    survival_threshold_frequency : int
        Uses below which an old concept of little relevance is pruned. Range: >= 0.
    prune_confidence_threshold : float
        Confidence below which an edge is dropped. Range: [0, 1].
    coactivation_threshold_create : int
        Joint activations of two concepts that make an edge. Range: >= 1.
    merge_similarity_threshold : float
        Cosine above which two concepts are merged. Range: [0, 1].
    split_density_threshold : int
        Edges beyond which a concept is split; one of ``max_edges_per_node`` edges is in any case.
        Range: >= 1.
    abstraction_enabled : bool
        Whether concepts are formed over tight groups of others.
    region_detection_interval : int
        Consolidations from one detection of regions to the next. Range: >= 1.
    max_events : int
        Events that the evolution log keeps; the oldest yield. Range: >= 1.
    learning_rate : float
        Learning rate of the default optimizer. Range: > 0.
    batch_size : int
        Samples in a batch where the trainer makes the batches. Range: >= 1.
    memory_mode : {"TRAIN", "FINETUNE", "INFERENCE", "ONLINE"}
        Mode that a memory starts in.
    durability : {"full", "normal"}
        Whether a commit survives a power cut. With "normal", which syncs once for a commit in
        place of twice, the last ones before a power cut may be undone; those that remain are
        whole. Either survives a kill.
    storage_directory : str or None
        Directory of the memory where the caller names none. None stands for ``./aesg_memory``.
    log_level : {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
        Least severity that the ``aesg`` logger passes on.
    """

    vector_dim: int = 256
    max_concepts: int = 1_000_000
    max_edges_per_node: int = 1000
    spreading_activation_steps: int = 3
    spreading_activation_decay: float = 0.8
    spreading_activation_frontier: int = 0
    region_facilitation_multiplier: float = 1.5
    novelty_explanation_threshold: float = 0.6
    novelty_birth_threshold: int = 3
    consolidation_epoch_interval: int = 10
    survival_threshold_relevance: float = 0.05
    survival_threshold_frequency: int = 5
    prune_confidence_threshold: float = 0.1
    coactivation_threshold_create: int = 50
    merge_similarity_threshold: float = 0.95
    split_density_threshold: int = 800
    abstraction_enabled: bool = True
    region_detection_interval: int = 50
    max_events: int = 1_000_000
    learning_rate: float = 1e-3
    batch_size: int = 32
    memory_mode: str = "TRAIN"
    durability: str = "full"
    storage_directory: str | None = None
    log_level: str = "INFO"

    @classmethod
    def for_text(cls, **overrides: Any) -> AESGConfig:
        """Return the preset for text: 128 components, 500,000 concepts.

        Parameters
        ----------
        **overrides
            Any field, by name.

        Returns
        -------
        AESGConfig
            The preset with the overrides applied.
        """
        return cls(**{"vector_dim": 128, "max_concepts": 500_000, **overrides})

    @classmethod
    def for_image(cls, **overrides: Any) -> AESGConfig:
        """Return the preset for images: 256 components, 200,000 concepts.

        Parameters
        ----------
        **overrides
            Any field, by name.

        Returns
        -------
        AESGConfig
            The preset with the overrides applied.
        """
        return cls(**{"vector_dim": 256, "max_concepts": 200_000, **overrides})

    @classmethod
    def for_classification(cls, **overrides: Any) -> AESGConfig:
        """Return the preset for classification: 64 components, 100,000 concepts.

        Parameters
        ----------
        **overrides
            Any field, by name.

        Returns
        -------
        AESGConfig
            The preset with the overrides applied.
        """
        return cls(**{"vector_dim": 64, "max_concepts": 100_000, **overrides})

    def to_json(self) -> str:
        """Return the fields as a JSON object, in their order, indented by two spaces."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> AESGConfig:
        """Return the configuration that `to_json` wrote.

        Parameters
        ----------
        text : str
            A JSON object. A field that it lacks takes its default.

        Returns
        -------
        AESGConfig
            Equal to the one written. Ranges are not judged here.

        Raises
        ------
        AESGConfigError
            If the text is not a JSON object, names an unknown field, or gives one the wrong type.
        """
        values = _parse_object(text)
        known = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise AESGConfigError(
                f"Configuration JSON has unknown fields {unknown}; expected among {list(known)}"
            )
        for name, value in values.items():
            types, expected = _JSON_TYPES[known[name]]
            if type(value) not in types:
                raise AESGConfigError(f"Parameter '{name}': got {value!r}, expected {expected}")
        return cls(**values)


#: Per annotation of a field: the Python types that JSON gives for it, and their name in messages.
#: Exact types, because bool is a subclass of int.
_JSON_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "integer"),
    "float": ((float, int), "float"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "string"),
    "str | None": ((str, NoneType), "string or null"),
}


def _parse_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AESGConfigError(f"Configuration is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise AESGConfigError(
            f"Configuration JSON: got {type(values).__name__}, expected an object of fields"
        )
    return values
