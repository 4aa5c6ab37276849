"""A classifier of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.errors import AESGConfigError, AESGTrainingError
from aesg.memory import AESGMemory
from aesg.memory_inputs import is_integer
from aesg.models._encoder import Encoder
from aesg.models._image_model import ImageModel
from aesg.models.base import check_positive
from aesg.models.image import Keys, check_keys
from aesg.nn.classes import ClassMixture, HiddenClasses, heard_of
from aesg.nn.likelihood import log_probabilities
from aesg.nn.origins import origins_of
from aesg.nn.pixels import PixelQuery
from aesg.nn.query import MemoryQuery, QueryPolicy, check_query_every
from aesg.outcomes import UNKNOWN

_TOP_K = 32
#: Initial scale of cosines in the attention over examples of classes, which lie closer together
#: than the states of a text.
_FIRST_SCALE = 20.0
#: Samples of the running count, for each class, and how many of a class make the head half
#: practised.
_WINDOW = 64
_HALF_PRACTISED = 8.0


class AESGCNNClassifier(ImageModel):
    """A convolutional classifier that remembers examples of its classes.

    Each image asks the memory, by default once. What the retrieved concepts are examples of is
    added to the features at the bottleneck, and mixed into the distribution over the classes. A
    class can be told of without training: ``memory.remember(model.queries(images), labels)``
    adds it.

    Parameters
    ----------
    memory : AESGMemory
        Its attention starts sharper than that of a text model, and without a prior on age: a class
        does not go out of date.
    num_classes : int
        Room for classes ``V``, at least 1; not all of them need be trained.
    channels : int
        Channels ``C`` of the images.
    base_filters, blocks : int
        Of the encoder: block ``i`` has ``base_filters * 2**i`` filters and halves the image.
    keys : {"pixels", "features"}
        What an image asks with: a fixed projection of its pixels, or a learned one of the
        encoder's features.
    query_every : int or "sample"
        "sample" asks once for each image; ``n`` for each ``n`` x ``n`` cells of the bottleneck,
        whose answers are averaged.
    top_k : int
        Concepts retrieved for each query.
    hidden_classes : float
        Share of the classes that half of the training samples have to do without, so that the
        memory is needed, in [0, 1).
    memory_dropout : float
        Share of training batches that run without the memory, in [0, 1).

    Raises
    ------
    AESGConfigError
        If a parameter is out of range.
    """

    asks_first: bool = True
    counts: Tensor

    def __init__(
        self,
        memory: AESGMemory,
        *,
        num_classes: int = 10,
        channels: int = 3,
        base_filters: int = 32,
        blocks: int = 3,
        keys: Keys = "pixels",
        query_every: QueryPolicy = "sample",
        top_k: int = _TOP_K,
        hidden_classes: float = 0.3,
        memory_dropout: float = 0.3,
    ) -> None:
        check_positive(num_classes=num_classes, top_k=top_k)
        check_keys(keys)
        check_query_every(query_every, causal=False)
        if not 0 <= hidden_classes < 1:
            raise AESGConfigError(f"hidden_classes: expected [0, 1), got {hidden_classes}")
        super().__init__(memory, memory_dropout=memory_dropout)
        self.num_classes = num_classes
        self.top_k = top_k
        self.keys = keys
        self.query_every = query_every
        self.keys_drift = keys == "features"
        self.hidden_classes = hidden_classes
        self.encoder = Encoder(channels, base_filters, blocks)
        width = self.encoder.width
        self.head = nn.Linear(width, num_classes)
        self.query = _query_of(keys, query_every, channels, width, memory)
        self.embedding = nn.Embedding(num_classes, width)
        nn.init.zeros_(self.embedding.weight)
        self.mixture = ClassMixture()
        self.register_buffer("counts", torch.zeros(num_classes))
        with torch.no_grad():
            memory.log_scale.fill_(math.log(_FIRST_SCALE))
            memory.recency.zero_()

    def memory_parts(self) -> tuple[nn.Module, ...]:
        """Return query, embedding of the classes and mixture."""
        return (self.query, self.embedding, self.mixture)

    def forward(self, images: Tensor) -> Tensor:
        """Return the log-probabilities of the classes, which serve as logits.

        Parameters
        ----------
        images : (B, C, height, width) float tensor

        Returns
        -------
        (B, V) tensor

        Raises
        ------
        AESGTrainingError
            If type, shape or channels are others, or a side is shorter than the encoder's stride.
        """
        features = self.encoder(images)  # (B, F, h, w)
        pooled = features.mean((2, 3))  # (B, F)
        query = self._query(images, features)  # (B, P, D)
        if not self.uses_memory():
            return log_probabilities(self.head(pooled))
        context = self.memory.recall(
            query, top_k=self.top_k, origins=origins_of(images), vectors=False, balanced=True
        )
        log_probs = self._mixed(pooled, context)
        of_each = log_probs.unsqueeze(1).expand(-1, query.shape[1], -1)  # (B, P, V)
        self.memory.defer(context, log_probs=of_each)
        return log_probs

    def queries(self, images: Tensor) -> Tensor:
        """Return the queries that images put to the memory.

        Parameters
        ----------
        images : (B, C, height, width) float tensor

        Returns
        -------
        (B, D) tensor
            ``(B, P, D)`` of the ``P`` cells of each image where it asks more than once.

        Raises
        ------
        AESGTrainingError
            As for `forward`.
        """
        if self.keys == "pixels":
            query = self._pixel_query(self.encoder.checked(images))
        else:
            query = self._query(images, self.encoder(images))
        return query.squeeze(1) if self.query_every == "sample" else query

    def outcomes(self, targets: Tensor) -> Tensor:
        """Return the class of each image, which is what came at all of its queries.

        Parameters
        ----------
        targets : (B,) integer tensor, or (B, V) float tensor
            Classes, -100 where one is not known; or a distribution over them for each image, of
            which the likeliest is taken.

        Returns
        -------
        (B,) int64 tensor

        Raises
        ------
        AESGTrainingError
            If they are of another type or shape, or a class is out of range.
        """
        if targets.is_floating_point():
            if targets.shape[1:] != (self.num_classes,):
                raise self._unfitting(targets)
            return targets.argmax(1)
        if targets.ndim != 1 or not is_integer(targets):
            raise self._unfitting(targets)
        classes = targets.long()
        wrong = classes[(classes != UNKNOWN) & ((classes < 0) | (classes >= self.num_classes))]
        if wrong.numel():
            raise AESGTrainingError(
                f"Targets: expected classes from 0 to {self.num_classes - 1}, or {UNKNOWN} where "
                f"one is not known, got {int(wrong[0])}"
            )
        return classes

    def observe(self, targets: Tensor) -> None:
        """Tell memory and head which classes came; see `AESGModel.observe`.

        In training the head counts as practised in the classes that came lately, and in no others.
        What is not known counts for none.
        """
        classes = self.outcomes(targets)
        self.memory.observe(classes)
        if self.training:
            window = _WINDOW * self.num_classes
            known = classes[classes != UNKNOWN]
            came = torch.bincount(known, minlength=self.num_classes)
            self.counts.mul_(math.exp(-known.numel() / window)).add_(came)

    def _unfitting(self, targets: Tensor) -> AESGTrainingError:
        return AESGTrainingError(
            f"Targets: expected classes, integers of shape (batch,), or distributions over them, "
            f"floats of shape (batch, {self.num_classes}), got {targets.dtype} of shape "
            f"{tuple(targets.shape)}"
        )

    def _query(self, images: Tensor, features: Tensor) -> Tensor:
        """Return the queries ``(B, P, D)`` of images, made of them or of their features."""
        if self.keys == "pixels":
            return self._pixel_query(images)
        if self.query_every != "sample":
            features = F.avg_pool2d(features, self.query_every, ceil_mode=True)
        query: Tensor = self.query(features.flatten(2).transpose(1, 2))
        return query

    def _pixel_query(self, images: Tensor) -> Tensor:
        query: Tensor
        if self.query_every == "sample":
            query = self.query(images)
        else:
            cell = self.encoder.stride * self.query_every
            rows, columns = (math.ceil(side / cell) for side in images.shape[2:])
            query = self.query(images, rows, columns)
        return query

    def _mixed(self, pooled: Tensor, context: RetrievedContext) -> Tensor:
        """Return the log-probabilities ``(B, V)`` of model and memory together."""
        practised = (self.counts / (self.counts + _HALF_PRACTISED)).expand(pooled.shape[0], -1)
        hidden = self._hidden(pooled)
        if hidden is not None:
            context = hidden.in_context(context)
            practised = practised.masked_fill(hidden.hidden, 0.0)
        # What is not practised adds nothing: the head has not learned what it means. Added to the
        # mean, it is added to every place of the feature map.
        heard = heard_of(context, self.num_classes) * practised
        logits = own = self.head(pooled + heard.to(pooled.dtype) @ self.embedding.weight)
        self._keep_own(lambda: log_probabilities(own))
        if hidden is not None:
            logits = hidden.in_log_probs(log_probabilities(own))
        log_probs: Tensor = self.mixture(logits, context, practised)
        return log_probs

    def _hidden(self, pooled: Tensor) -> HiddenClasses | None:
        if not self.training or not self.hidden_classes:
            return None
        return HiddenClasses.draw(len(pooled), self.num_classes, self.hidden_classes, pooled.device)


def _query_of(
    keys: Keys, every: QueryPolicy, channels: int, width: int, memory: AESGMemory
) -> nn.Module:
    if keys == "pixels":
        return PixelQuery(channels, memory.vector_dim)
    return MemoryQuery(width, memory, every="sample" if every == "sample" else 1)
