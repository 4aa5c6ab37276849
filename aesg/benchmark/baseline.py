"""The network of `AESGColorizationNet` without its memory."""

from __future__ import annotations

from torch import Tensor, nn

from aesg.models._encoder import Decoder, Encoder
from aesg.models.image import AESGColorizationNet, check_range, tinted


class BaselineCNN(nn.Module):
    """Colours gray images as `AESGColorizationNet` does, by its encoder and decoder alone.

    Parameters
    ----------
    base_filters : int
        Filters of the first block; each block has twice as many as the one before it.
    blocks : int
        Blocks, each of which halves the image.

    Raises
    ------
    AESGConfigError
        If a parameter is not at least 1.
    """

    def __init__(self, *, base_filters: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.encoder = Encoder(1, base_filters, blocks)
        self.decoder = Decoder(3, base_filters, blocks)
        for parameter in self.decoder.last.parameters():
            nn.init.zeros_(parameter)  # starts as the gray image

    @classmethod
    def beside(cls, model: AESGColorizationNet) -> BaselineCNN:
        """Return one of the sizes and with the weights of a model's encoder and decoder."""
        blocks = len(model.encoder.blocks)
        made = cls(base_filters=model.encoder.width >> (blocks - 1), blocks=blocks)
        made.encoder.load_state_dict(model.encoder.state_dict())
        made.decoder.load_state_dict(model.decoder.state_dict())
        return made

    def forward(self, images: Tensor) -> Tensor:
        """Return coloured images.

        Parameters
        ----------
        images : (B, 1, H, W) float tensor
            In [0, 1]; any size from the encoder's stride on.

        Returns
        -------
        (B, 3, H, W) tensor
            In [0, 1].

        Raises
        ------
        AESGTrainingError
            If type, shape or channels are others, a side is too short or a pixel is out of range.
        """
        check_range("Images", self.encoder.checked(images))
        return tinted(images, self.decoder(self.encoder(images)))
