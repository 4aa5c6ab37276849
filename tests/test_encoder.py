"""The convolutional halves of image models, beside the plain order of their operations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.models._encoder import Decoder, Encoder, padded

FILTERS, BLOCKS = 4, 2


def halves(channels: int) -> tuple[Encoder, Decoder]:
    """Return an encoder and its mirror in double precision; the same weights each time."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(channels, FILTERS, BLOCKS), Decoder(channels, FILTERS, BLOCKS)
    return encoder.double(), decoder.double()


def plainly(encoder: Encoder, decoder: Decoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features and images: ReLU in front of the pooling, every channel a plane."""
    features = padded(images, encoder.stride)
    for block in encoder.blocks:
        convolution, normalisation = block.get_submodule("0"), block.get_submodule("1")
        features = F.max_pool2d(F.relu(normalisation(convolution(features))), 2)
    painted = features
    for block in decoder.blocks:
        painted = F.relu(block.get_submodule("1")(block.get_submodule("0")(painted)))
    return features, decoder.last(painted)


def gradients(parts: tuple[nn.Module, ...], loss: Tensor) -> list[Tensor]:
    """Return the gradients of all parameters."""
    return list(torch.autograd.grad(loss, [each for part in parts for each in part.parameters()]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (5, 11)])
@pytest.mark.parametrize("channels", [1, 3])
def test_features_images_and_gradients_are_those_of_the_plain_order(
    channels: int, size: tuple[int, int], training: bool
) -> None:
    encoder, decoder = halves(channels)
    encoder.train(training)
    decoder.train(training)
    twins = copy.deepcopy(encoder), copy.deepcopy(decoder)
    images = torch.rand(3, channels, *size, dtype=torch.float64)
    images[1] = images[0]  # twice the same
    images[2] = 0.5  # without contrast: all that a pooling compares is equal
    features = encoder(images)
    painted = decoder(features)
    plain = plainly(*twins, images)
    torch.testing.assert_close((features, painted), plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradients((encoder, decoder), painted.square().sum() + features.sum()),
        gradients(twins, plain[1].square().sum() + plain[0].sum()),
        rtol=1e-10,
        atol=1e-10,
    )
    torch.testing.assert_close(encoder.state_dict(), twins[0].state_dict(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_only_features_are_laid_out_otherwise(channels: int) -> None:
    encoder, decoder = halves(channels)
    images = torch.rand(2, channels, 8, 8, dtype=torch.float64)
    before = images.clone()
    painted = decoder(encoder(images))
    painted.sum().backward()
    assert painted.is_contiguous()
    torch.testing.assert_close(images, before, rtol=0, atol=0)
    assert all(each.is_contiguous() for each in (*encoder.parameters(), *decoder.parameters()))
