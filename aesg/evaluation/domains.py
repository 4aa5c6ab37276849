"""What a model does, as its class name says."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from aesg.errors import AESGTrainingError
from aesg.models.base import AESGModel

Domain = Literal["text", "image", "classification"]

DOMAINS: tuple[Domain, ...] = get_args(Domain)

_WORDS: dict[str, Domain] = {
    "Transformer": "text",
    "GRUText": "text",
    "LSTMText": "text",
    "Seq2Seq": "text",
    "DecoderLM": "text",
    "Classifier": "classification",
    "Colorization": "image",
    "Autoencoder": "image",
}


def domain_of(model: object) -> Domain | None:
    """Return the domain of a model: which metrics fit what it returns.

    The name of its class says it, or else that of a class that it inherits from: "Transformer",
    "GRUText", "LSTMText", "Seq2Seq" or "DecoderLM" in it means text, "Classifier" classification,
    "Colorization" or "Autoencoder" image. Of several the last counts: a TransformerClassifier is a
    classifier. Where a wrapper's name says nothing, the model within it does: within what
    `torch.compile`, DataParallel or DistributedDataParallel made, or any other module with just one
    part that has parameters. If that is one of `aesg.models`, it goes before the wrapper's name.

    Parameters
    ----------
    model : object
        Usually a torch.nn.Module.

    Returns
    -------
    {"text", "image", "classification"} or None
        None where no name says it.
    """
    found: Domain | None = None
    seen: set[int] = set()
    while model is not None and id(model) not in seen:
        seen.add(id(model))
        if isinstance(model, AESGModel):
            return _said(model) or found
        found = found or _said(model)
        model = _within(model)
    return found


def checked_domain(domain: str) -> Domain:
    """Return a domain, given as text.

    Raises
    ------
    AESGTrainingError
        If there is no such domain.
    """
    for each in DOMAINS:
        if each == domain:
            return each
    raise AESGTrainingError(f"domain: expected one of {', '.join(DOMAINS)}, got {domain!r}")


def recognised() -> str:
    """Return the parts of class names that say a domain, for messages."""
    return "; ".join(
        f"{domain}: {', '.join(word for word, of in _WORDS.items() if of == domain)}"
        for domain in DOMAINS
    )


def _said(model: object) -> Domain | None:
    """Return what the name of a class says, or else that of a class that it inherits from."""
    names = (each.__name__ for each in type(model).__mro__)
    return next((domain for domain in map(_named, names) if domain is not None), None)


def _named(name: str) -> Domain | None:
    ends = {name.rfind(word) + len(word): of for word, of in _WORDS.items() if word in name}
    return ends[max(ends)] if ends else None


def _within(model: object) -> nn.Module | None:
    if not isinstance(model, nn.Module):
        return None
    trained = [part for part in model.children() if any(True for _ in part.parameters())]
    return trained[0] if len(trained) == 1 else None
