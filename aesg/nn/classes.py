"""What a memory of classes adds to a classifier, and how it comes to be needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.nn._gate import FIRST_BIAS, share_of
from aesg.nn.likelihood import log_probabilities

_FEATURES = 8
_GATE_WIDTH = 16
#: The gate's features are shares of one. With what it senses scaled up, and what it says, it learns
#: to open within some hundred steps of an ordinary learning rate.
_FEATURE_SCALE = 4.0
_GATE_SCALE = 4.0

#: What the head gives to all hidden classes together: about what it gives to a class that it never
#: saw.
_TO_HIDDEN = 1e-4
#: Share of the samples that do without some classes.
_HIDING = 0.5
#: Least share of a hidden class's concepts that stay in sight.
_FEWEST = 1 / 64
#: Least share of the attention that is left to what is not a class.
_LEAST_REST = 1e-6


@dataclass(frozen=True)
class HiddenClasses:
    """Classes that some samples of a batch have to do without, but for a few concepts.

    A head that knows every class of the data leaves the memory nothing to say, and the gate never
    opens. Where classes are hidden, the head knows them as little as ones that it was never taught,
    and the memory holds few of their concepts.

    Parameters
    ----------
    hidden : (B, V) bool tensor
        Which classes each sample does without; never all.
    kept : (B, V) tensor
        Share of each class's concepts that stay in sight, in (0, 1]; 1 where it is not hidden.
    """

    hidden: Tensor
    kept: Tensor

    @classmethod
    def draw(
        cls, samples: int, classes: int, share: float, device: torch.device | str = "cpu"
    ) -> HiddenClasses:
        """Hide each class with the probability ``share`` from half of the samples.

        The shares kept are drawn log-uniformly.
        """
        hidden = torch.rand(samples, classes, device=device) < share
        hidden &= torch.rand(samples, 1, device=device) < _HIDING
        hidden &= ~hidden.all(-1, keepdim=True)
        kept = _FEWEST ** torch.rand(samples, classes, device=device)
        return cls(hidden, torch.where(hidden, kept, torch.ones_like(kept)))

    def in_log_probs(self, log_probs: Tensor) -> Tensor:
        """Return ``(B, V)`` log-probabilities that tell nothing of hidden classes.

        Those of the other classes are as if there were no hidden ones.
        """
        known = log_probs.masked_fill(self.hidden, -torch.inf).log_softmax(-1)
        count = self.hidden.sum(-1, keepdim=True)
        given = torch.where(count > 0, _TO_HIDDEN, 0.0)
        to_each = (_TO_HIDDEN / count.clamp_min(1)).log().to(log_probs.dtype)
        return torch.where(self.hidden, to_each, known + torch.log1p(-given).to(log_probs.dtype))

    def in_context(self, context: RetrievedContext) -> RetrievedContext:
        """Return a context ``(B, P, K)`` in which few concepts of hidden classes are attended to.

        Those that stay weigh more by as much as their class is smaller, as balanced attention has
        it in a memory that holds no others.
        """
        counted, ids = _classes_of(context, self.kept.shape[-1])
        of_each = self.kept.unsqueeze(1).expand(-1, ids.shape[1], -1)
        kept = of_each.gather(-1, ids)  # (B, P, K)
        kept = torch.where(counted, kept, torch.ones_like(kept))
        rest = (1 - context.weights.sum(-1, keepdim=True)).clamp_min(_LEAST_REST)
        weights = context.weights * (torch.rand_like(kept) < kept) / kept
        total = weights.sum(-1, keepdim=True) + rest
        abstract = context.abstract_weight / total.squeeze(-1)
        return replace(context, weights=weights / total, abstract_weight=abstract)


class ClassMixture(nn.Module):
    """``p = (1 - g) p_model + g p_memory`` over classes.

    As `MemoryMixture`, but for what a memory of classes has to be without. The gate ``g`` sees no
    hidden state, and no age: it treats a class that came later, or long ago, as it has learned to
    treat any other. And what attention goes to no class is not the model's: ``p_memory`` sums to
    one where a class was retrieved, and ``g`` is 0 where none was.

    The gate sees the best similarity, the attention that went to classes, how sure model and
    memory are, what each gives to the other's choice, and how practised the head is in both.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sense = nn.Linear(_FEATURES, _GATE_WIDTH)
        self.gate = nn.Linear(_GATE_WIDTH, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, FIRST_BIAS / _GATE_SCALE)

    def forward(self, logits: Tensor, context: RetrievedContext, practised: Tensor) -> Tensor:
        """Return log-probabilities, usable as logits.

        Parameters
        ----------
        logits : (B, V) tensor
        context : RetrievedContext
            Of ``P`` queries for each row; concepts of other values than ``0 .. V - 1`` are not
            heard.
        practised : (B, V) tensor
            How practised the model is in each class, in [0, 1].

        Returns
        -------
        (B, V) tensor
            ``log p``, float32 at least; exactly ``log_softmax(logits)`` where no class was
            retrieved.
        """
        log_model = log_probabilities(logits)
        heard = heard_of(context, logits.shape[-1]).to(log_model.dtype)  # (B, V)
        total = heard.sum(-1, keepdim=True)
        said = heard / total.clamp_min(torch.finfo(total.dtype).tiny)
        gate = self._gate(log_model, said, total, context, practised) * (total > 0)  # (B, 1)
        left = log_model + torch.log1p(-gate)
        mixed = torch.logaddexp(left, (gate * said).clamp_min(1e-30).log())
        return torch.where(said > 0, mixed, left)

    def _gate(
        self,
        log_model: Tensor,
        said: Tensor,
        total: Tensor,
        context: RetrievedContext,
        practised: Tensor,
    ) -> Tensor:
        expected = log_model.detach().exp()
        peak, chosen = said.max(-1, keepdim=True)
        best, own = expected.max(-1, keepdim=True)
        features = torch.cat(
            [
                context.best_cosine.mean(1).unsqueeze(-1),
                total,
                peak,
                said.gather(-1, own),
                best,
                expected.gather(-1, chosen),
                practised.gather(-1, chosen),
                practised.gather(-1, own),
            ],
            -1,
        )
        sensed = F.gelu(self.sense((_FEATURE_SCALE * features).to(self.sense.weight.dtype)))
        gate: Tensor = _GATE_SCALE * self.gate(sensed).to(said.dtype)
        return share_of(gate)


def heard_of(context: RetrievedContext, classes: int) -> Tensor:
    """Return the attention ``(B, V)`` that went to concepts of each class.

    Of a context ``(B, P, K)`` the mean of the ``P`` queries of each sample.
    """
    counted, ids = _classes_of(context, classes)
    none = context.weights.new_zeros(*ids.shape[:-1], classes)
    return none.scatter_add(-1, ids, context.weights.masked_fill(~counted, 0.0)).mean(1)


def _classes_of(context: RetrievedContext, classes: int) -> tuple[Tensor, Tensor]:
    """Return which concepts ``(..., K)`` hold a class, and the class; 0 where they do not."""
    ids = context.value_ids
    counted = (ids >= 0) & (ids < classes)
    return counted, ids.masked_fill(~counted, 0)
