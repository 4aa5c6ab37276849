"""How good predictions are: of text, images and classes."""

from aesg.evaluation.domains import domain_of
from aesg.evaluation.evaluator import Evaluator
from aesg.evaluation.metrics import DomainMetrics

__all__ = ["DomainMetrics", "Evaluator", "domain_of"]
