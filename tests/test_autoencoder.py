"""The autoencoder: reconstruction, and what is unlike anything before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from aesg import AESGTrainer, AESGTrainingError
from aesg.models import AESGCNNAutoencoder
from tests.image_models import outspoken, painter, pictures, tell


def model(**options: Any) -> AESGCNNAutoencoder:
    return painter(AESGCNNAutoencoder, **options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (7, 18)])
def test_an_image_of_any_size_comes_back(channels: int, size: tuple[int, int]) -> None:
    with (made := model(channels=channels)).memory:
        images = pictures(2, channels, size)
        tell(outspoken(made), images, images)
        rebuilt = made(images)
        assert rebuilt.shape == images.shape
        assert ((rebuilt >= 0) & (rebuilt <= 1)).all()


def test_images_of_other_channels_are_refused() -> None:
    with (made := model(channels=1)).memory, pytest.raises(AESGTrainingError, match="batch, 1"):
        made(torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize("keys", ["pixels", "features"])
def test_what_was_seen_before_is_rebuilt_better(keys: str) -> None:
    images = pictures(4, 3)
    with (made := outspoken(model(keys=keys))).memory:
        with made.without_memory():
            alone = nn.functional.mse_loss(made(images), images)
        tell(made, images, images)
        assert nn.functional.mse_loss(made(images), images) < 0.8 * alone


def test_a_clean_picture_is_remembered_for_a_noisy_one() -> None:
    clean = pictures(4, 3)
    noisy = (clean + 0.1 * torch.randn(clean.shape)).clamp(0, 1)
    with (made := model(novelty_explanation_threshold=1.0)).memory:
        made.eval().memory.set_mode("ONLINE")
        with torch.no_grad():
            made(noisy)
        made.observe(clean)
        made.memory.update_topology()
        nn.init.constant_(made.memory.log_scale, 6.0)
        assert_close(made.explanation_scores(clean), torch.ones(4), atol=0.1, rtol=0)


def test_an_empty_memory_explains_nothing() -> None:
    with (made := model()).memory:
        assert not made.explanation_scores(torch.rand(2, 3, 16, 16)).any()


def test_what_was_seen_is_explained_better_than_what_was_not() -> None:
    seen, strange = pictures(6, 3), pictures(6, 3, seed=1)
    with (made := model()).memory:
        tell(made, seen, seen)
        known, unknown = made.explanation_scores(seen), made.explanation_scores(strange)
    assert known.shape == (6,)
    assert known.amin() > unknown.amax()
    assert ((unknown >= 0) & (known <= 1)).all()


def test_explaining_learns_nothing_in_any_mode() -> None:
    with (made := model()).memory:
        for mode in ("TRAIN", "ONLINE", "INFERENCE"):
            made.memory.set_mode(mode)
            made.explanation_scores(torch.rand(2, 3, 16, 16))
            made.memory.update_topology()
        assert not made.memory.storage.node_count + made.memory.provisional_count


def test_training_grows_concepts_and_edges() -> None:
    torch.manual_seed(0)
    images = pictures(6, 3)
    with (made := model()).memory:
        trainer = AESGTrainer(made, criterion=nn.MSELoss(), batch_size=3, progress=False)
        losses = trainer.fit(list(zip(images, images, strict=True)), epochs=4)
        assert losses[-1] < losses[0]
        assert made.memory.storage.node_count
        assert made.memory.storage.edge_count
