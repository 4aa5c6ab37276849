"""Ready models with a memory inside."""

from aesg.models.text import AESGDecoderLM

__all__ = ["AESGDecoderLM"]
