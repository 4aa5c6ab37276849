"""Ready models with a memory inside."""

from aesg.models.classifier import AESGCNNClassifier
from aesg.models.image import AESGCNNAutoencoder, AESGColorizationNet
from aesg.models.recurrent import AESGGRUText, AESGLSTMText
from aesg.models.seq2seq import AESGSeq2Seq
from aesg.models.text import AESGDecoderLM
from aesg.models.transformer import AESGTransformer

__all__ = [
    "AESGCNNAutoencoder",
    "AESGCNNClassifier",
    "AESGColorizationNet",
    "AESGDecoderLM",
    "AESGGRUText",
    "AESGLSTMText",
    "AESGSeq2Seq",
    "AESGTransformer",
]
