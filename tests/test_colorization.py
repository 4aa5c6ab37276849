"""The colorization model, and what it has in common with the autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from aesg import AESGConfigError, AESGTrainer, AESGTrainingError
from aesg.models import AESGColorizationNet
from aesg.models._patches import PatchCodes, window_keys
from tests.image_models import DIM, STRIDE, outspoken, painter, pictures, tell

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


def gray(colours: Tensor) -> Tensor:
    return (colours * LUMA).sum(1, keepdim=True)


def model(**options: Any) -> AESGColorizationNet:
    return painter(AESGColorizationNet, **options)


def knowing(seed: int = 0, **options: Any) -> AESGColorizationNet:
    """Return a model that was told the colours of some pictures."""
    made = outspoken(model(**options))
    colours = pictures(4, 3, seed=seed)
    tell(made, gray(colours), colours)
    return made


@pytest.fixture(autouse=True)
def _closing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the memory of each model that a test makes."""
    made: list[AESGColorizationNet] = []
    sized = AESGColorizationNet.sized.__func__  # type: ignore[attr-defined]

    def kept(cls: type, *arguments: Any, **options: Any) -> AESGColorizationNet:
        made.append(sized(cls, *arguments, **options))
        return made[-1]

    monkeypatch.setattr(AESGColorizationNet, "sized", classmethod(kept))
    yield
    for each in made:
        each.memory.close()


@pytest.mark.parametrize("size", [(16, 16), (4, 4), (17, 21), (8, 15)])
@pytest.mark.parametrize("every", [1, 2, "sample"])
def test_an_image_of_any_size_comes_back_in_colour(size: tuple[int, int], every: Any) -> None:
    made = knowing(query_every=every)
    colours = made(torch.rand(2, 1, *size))
    assert colours.shape == (2, 3, *size)
    assert ((colours >= 0) & (colours <= 1)).all()


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 3, 16, 16),
        torch.rand(1, 16, 16),
        torch.rand(2, 1, 3, 16),
        torch.rand(0, 1, 16, 16),
        torch.zeros(2, 1, 16, 16, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused(images: Tensor) -> None:
    made = model()
    with pytest.raises(AESGTrainingError, match=r"expected floats of shape \(batch, 1"):
        made(images)
    with pytest.raises(AESGTrainingError, match="no side below 4"):
        made.queries(images)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_refused_image_leaves_no_trace_in_the_network(wrong: float) -> None:
    made = model().train()
    before = {name: each.clone() for name, each in made.state_dict().items()}
    images = torch.rand(2, 1, 16, 16)
    images[1, 0, 3, 3] = wrong
    with pytest.raises(AESGTrainingError, match="expected finite numbers"):
        made(images)
    after = made.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_training_names_the_place_of_an_image_that_is_refused() -> None:
    colours = pictures(6, 3)
    grays = gray(colours)
    grays[4, 0, 2, 2] = torch.nan
    trainer = AESGTrainer(model(), batch_size=2, progress=False)
    with pytest.raises(
        AESGTrainingError, match=r"epoch 1, batch \d: Images: .*, in the sample at index 4$"
    ):
        trainer.fit(list(zip(grays, colours, strict=True)))


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1)])
def test_pixels_outside_their_range_are_refused_with_what_to_do(low: float, high: float) -> None:
    made = model()
    images = torch.rand(2, 1, 16, 16) * (high - low) + low
    for call in (made, made.queries):
        with pytest.raises(AESGTrainingError, match=r"Images: expected pixels in \[0, 1\].*scale"):
            call(images)
    with pytest.raises(AESGTrainingError, match=r"Targets: expected pixels in \[0, 1\].*scale"):
        made.observe(images.expand(-1, 3, -1, -1))


def test_pixels_may_overshoot_their_range_a_little() -> None:
    made = model()
    images = torch.rand(2, 1, 16, 16) * 1.08 - 0.04
    assert made(images).isfinite().all()
    made.observe(images.expand(-1, 3, -1, -1))


def test_targets_that_are_no_such_images_are_refused() -> None:
    with pytest.raises(AESGTrainingError, match=r"Targets: expected .* \(batch, 3"):
        model().outcomes(torch.rand(2, 1, 16, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": "colours"}, "keys: expected"),
        ({"query_every": 0}, "query_every"),
        ({"top_k": 0}, "top_k must be >= 1"),
        ({"blocks": 0}, "blocks must be >= 1"),
        ({"memory_dropout": 1.0}, "memory_dropout"),
        ({"vector_dim": 3}, "vector_dim: expected at least 4"),
        ({"blokcs": 2}, "did you mean blocks"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AESGConfigError, match=message):
        model(**options)


def test_a_new_model_returns_the_gray_image() -> None:
    image = torch.rand(1, 1, 16, 16) * 0.9 + 0.05
    assert_close(model().eval()(image), image.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("keys", ["pixels", "features"])
def test_colours_seen_before_come_back(keys: str) -> None:
    colours, made = pictures(4, 3), knowing(keys=keys)
    told = (made(gray(colours)) - colours).square().mean()
    with made.without_memory():
        alone = (made(gray(colours)) - colours).square().mean()
    assert told < 0.8 * alone


def test_an_empty_memory_changes_nothing() -> None:
    made, images = outspoken(model()), torch.rand(2, 1, 16, 16)
    with made.without_memory():
        alone = made(images)
    assert torch.equal(made(images), alone)


@pytest.mark.parametrize("every", [1, 2, "sample"])
def test_a_sample_does_not_depend_on_its_batch(every: Any) -> None:
    made, images = knowing(query_every=every), gray(pictures(3, 3, seed=5))
    together = made(images)
    for row in range(3):
        assert_close(made(images[row : row + 1]), together[row : row + 1])


def test_a_pixel_key_knows_the_shape_and_not_the_brightness() -> None:
    made, images = model(), gray(pictures(2, 3))
    key = nn.functional.normalize(made.queries(images), dim=-1)
    darker = nn.functional.normalize(made.queries(0.7 * images), dim=-1)
    assert ((key * darker).sum(-1) > 0.9).all()
    assert (key[0] * key[1]).sum(-1).amax() < 0.9


def test_a_window_without_contrast_has_a_direction() -> None:
    keys = window_keys(torch.full((1, 1, 8, 8), 0.3), STRIDE, (STRIDE, STRIDE), DIM)
    assert_close(keys[0, 0, 0], torch.eye(DIM)[9] * keys.amax())
    assert keys.amax() > 0


def test_a_code_holds_the_picture_of_its_cell() -> None:
    codes = PatchCodes(3, 64)
    assert codes.side == 4
    coarse = torch.randn(2, 3, 8, 12)
    coded = codes.encode(coarse.repeat_interleave(2, 2).repeat_interleave(2, 3), 2, 3)
    assert coded.shape == (2, 2, 3, 64)
    assert_close(codes.decode(coded, 8, 12), coarse)


def test_cells_of_the_same_colours_have_the_same_code_and_gray_has_one_too() -> None:
    codes = PatchCodes(3, DIM)
    flat = torch.tensor([0.2, -0.1, -0.1]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    coded = codes.encode(flat, 2, 2)
    assert_close(coded, coded[:, :1, :1].expand_as(coded))
    none = codes.encode(torch.zeros(1, 3, 8, 8), 2, 2)
    assert none.abs().sum() > 0
    cosine = nn.functional.cosine_similarity(coded, none, dim=-1)
    assert (cosine < 0.6).all()


@pytest.mark.parametrize("keys", ["pixels", "features"])
def test_gradient_reaches_all_that_is_trained(keys: str) -> None:
    made = knowing(keys=keys).train()
    nn.init.normal_(made.decoder.last.weight)
    nn.init.normal_(made.blend.gate.weight)
    colours = pictures(2, 3, seed=3)
    (made(gray(colours)) - colours).square().mean().backward()
    silent = {name for name, each in made.named_parameters() if each.grad is None}
    assert silent == set()


def test_training_grows_concepts_and_edges() -> None:
    torch.manual_seed(0)
    made = model(coactivation_threshold_create=5)
    colours = pictures(6, 3)
    data = list(zip(gray(colours), colours, strict=True))
    trainer = AESGTrainer(made, criterion=nn.MSELoss(), batch_size=3, progress=False)
    losses = trainer.fit(data, epochs=4)
    assert losses[-1] < losses[0]
    assert made.memory.storage.node_count
    assert made.memory.storage.edge_count


def test_a_frozen_network_alone_stays_what_it_was() -> None:
    made, colours = knowing(), pictures(4, 3)
    made.freeze_trunk()
    with made.without_memory():
        before = made(gray(colours))
    trainer = AESGTrainer(made, criterion=nn.MSELoss(), learning_rate=0.1, progress=False)
    trainer.fit(list(zip(gray(colours), colours, strict=True)), epochs=1)
    with made.eval().without_memory():
        after = made(gray(colours))
    assert not torch.equal(made(gray(colours)), after)
    assert torch.equal(after, before)


def test_inference_writes_nothing() -> None:
    made, colours = knowing(), pictures(4, 3, seed=7)
    before = (made.memory.storage.node_count, made.memory.provisional_count)
    AESGTrainer(made, criterion=nn.MSELoss(), progress=False).evaluate(
        list(zip(gray(colours), colours, strict=True))
    )
    assert (made.memory.storage.node_count, made.memory.provisional_count) == before
