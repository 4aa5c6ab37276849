"""What all models share: the size table, the factories, the hook for outcomes, origins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aesg import AESGConfigError, AESGMemory, AESGMemoryError, AESGTrainingError
from aesg.models._image_model import ImageModel
from aesg.models._text_model import TextModel
from aesg.models.base import SIZES
from aesg.nn.origins import origins_of
from tests.memory_build import opened


class Words(TextModel):
    """A text model without a network."""

    def __init__(
        self,
        vocab_size: int,
        memory: AESGMemory,
        *,
        hidden_size: int = 3,
        num_layers: int = 1,
        flavour: str = "plain",
        memory_dropout: float = 0.3,
    ) -> None:
        super().__init__(vocab_size, memory, memory_dropout=memory_dropout)
        self.sizes = (hidden_size, num_layers)
        self.flavour = flavour
        self.trunk = nn.Linear(2, 2)
        self.part = nn.Linear(2, 2)

    def memory_parts(self) -> tuple[nn.Module, ...]:
        return (self.part, self.part)


class Attended(Words):
    """One that hands on what it does not know, and takes a size of its own."""

    def __init__(
        self, vocab_size: int, memory: AESGMemory, *, nhead: int = 2, **options: Any
    ) -> None:
        super().__init__(vocab_size, memory, **options)
        self.nhead = nhead


class Pictures(ImageModel):
    """An image model without a network."""

    def __init__(
        self,
        memory: AESGMemory,
        *,
        base_filters: int = 8,
        blocks: int = 2,
        num_classes: int = 10,
        memory_dropout: float = 0.3,
    ) -> None:
        super().__init__(memory, memory_dropout=memory_dropout)
        self.sizes = (base_filters, blocks)
        self.num_classes = num_classes


# Sizes and factories


@pytest.mark.parametrize(
    ("name", "hidden", "layers", "nhead", "filters", "blocks", "dim"),
    [
        ("small", 128, 1, 4, 32, 3, 64),
        ("medium", 256, 2, 8, 64, 4, 128),
        ("large", 512, 4, 16, 128, 5, 256),
        ("sized", 192, 2, 6, 48, 4, 96),
    ],
)
def test_a_factory_gives_each_model_what_it_takes_of_the_documented_size(
    name: str, hidden: int, layers: int, nhead: int, filters: int, blocks: int, dim: int
) -> None:
    words: Words = getattr(Words, name)(50, "words")
    attended: Attended = getattr(Attended, name)(50, "attended")
    pictures: Pictures = getattr(Pictures, name)("pictures")
    assert words.sizes == attended.sizes == (hidden, layers)
    assert attended.nhead == nhead
    assert pictures.sizes == (filters, blocks)
    for model in (words, attended, pictures):
        assert model.memory.vector_dim == dim
        assert model.memory.config.max_concepts == 100_000
        model.memory.close()


def test_heads_divide_every_width_of_the_table() -> None:
    assert [size.hidden_size % size.nhead for size in SIZES.values()] == [0] * len(SIZES)


def test_options_go_to_the_model_or_to_its_configuration_and_win_over_the_preset() -> None:
    model = Attended.medium(
        7, "./there", hidden_size=24, nhead=3, flavour="odd", vector_dim=8, batch_size=5
    )
    assert (model.sizes, model.nhead, model.flavour) == ((24, 2), 3, "odd")
    assert (model.memory.vector_dim, model.memory.config.batch_size) == (8, 5)
    assert model.memory.directory == Path("there").resolve()
    model.memory.close()
    image = Pictures.sized(blocks=1, num_classes=3, memory_dropout=0.0, max_concepts=9)
    assert (image.sizes, image.num_classes, image.memory_dropout) == ((48, 1), 3, 0.0)
    assert image.memory.config.max_concepts == 9
    assert image.memory.directory == Path("aesg_memory").resolve()
    image.memory.close()


@pytest.mark.parametrize(
    ("make", "option", "message"),
    [
        (Words.small, "nhead", r"Unknown parameter nhead: expected .*one of Words's flavour, hid"),
        (Words.sized, "vector_dims", r"Unknown parameter vector_dims: .*did you mean vector_dim\?"),
        (Attended.large, "hidden", r"one of Attended's flavour, .*, nhead, .*mean hidden_size\?"),
    ],
)
def test_an_option_of_neither_is_named_with_what_would_do(
    make: Any, option: str, message: str
) -> None:
    with pytest.raises(AESGConfigError, match=message):
        make(50, **{option: 4})
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("vocab_size", [0, -3, 5.0, True, None])
def test_a_vocabulary_that_is_none_is_an_error_and_writes_nothing(vocab_size: Any) -> None:
    message = "vocab_size must be >= 1"
    if type(vocab_size) is not int:
        message = f"vocab_size must be an integer >= 1, got {vocab_size!r}"
    for make in (Words.small, Words.sized):
        with pytest.raises(AESGConfigError, match=f"^{message}$"):
            make(vocab_size)
    assert list(Path.cwd().iterdir()) == []


def test_a_model_that_cannot_be_made_leaves_its_memory_closed() -> None:
    seen: list[AESGMemory] = []

    class Picky(TextModel):
        def __init__(self, vocab_size: int, memory: AESGMemory, *, num_layers: int) -> None:
            seen.append(memory)
            raise AESGConfigError(f"num_layers: got {num_layers}")

    with pytest.raises(AESGConfigError, match="num_layers: got 1"):
        Picky.small(50)
    with pytest.raises(AESGMemoryError, match="closed"):
        seen[0].retrieve(torch.randn(64))


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_memory_dropout_that_is_no_share_is_an_error(share: float) -> None:
    with pytest.raises(AESGConfigError, match=r"memory_dropout: got .*, expected \[0, 1\)"):
        Words(5, opened(), memory_dropout=share)


# Parameters and hooks


def test_the_parameters_of_memory_and_parts_are_listed_once() -> None:
    model = Words(5, opened())
    listed = [id(parameter) for parameter in model.memory_parameters()]
    assert len(listed) == len(set(listed))
    expected = [*model.memory.parameters(), *model.part.parameters()]
    assert set(listed) == {id(parameter) for parameter in expected}


def test_a_model_without_parts_speaks_through_the_memory_alone() -> None:
    model = Pictures(opened())
    assert [id(each) for each in model.memory_parameters()] == [
        id(each) for each in model.memory.parameters()
    ]


def test_observed_targets_pass_through_the_models_own_reading_of_them() -> None:
    class Doubled(Words):
        def outcomes(self, targets: Tensor) -> Tensor:
            return 2 * targets

    for kind, expected in ((Words, [1, 2]), (Doubled, [2, 4])):
        model = kind(5, opened(kind.__name__, novelty_birth_threshold=2))
        model.memory.defer(model.memory.recall(torch.eye(16)[:2]))
        model.observe(torch.tensor([1, 2]))
        model.memory.update_topology()
        assert model.memory._state.shortterm.entries["value_id"].tolist() == expected


def test_whether_the_memory_is_asked() -> None:
    torch.manual_seed(0)
    model = Words(5, opened(), memory_dropout=0.25)
    assert 250 < sum(model.uses_memory() for _ in range(400)) < 350
    model.freeze_trunk()
    assert all(model.uses_memory() for _ in range(50))
    model.freeze_trunk(False)
    model.eval()
    assert all(model.uses_memory() for _ in range(50))
    with model.without_memory():
        assert not model.uses_memory()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"shape \(batch, time\).*got torch.int64 .*\(3,\)"),
        (torch.zeros(2, 3), r"expected integers.*got torch.float32"),
        (torch.zeros(2, 3, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(0, 3, dtype=torch.long), r"at least one.*\(0, 3\)"),
        (torch.tensor([[0, 5]]), "expected 0 to 4, got 5"),
        (torch.tensor([[0, -1]]), "expected 0 to 4, got -1"),
    ],
)
def test_what_is_not_a_batch_of_tokens_is_an_error(tokens: Tensor, message: str) -> None:
    with pytest.raises(AESGTrainingError, match=message):
        Words(5, opened())._checked(tokens)


# Origins


SAMPLES = [
    torch.arange(24).view(4, 6),
    torch.rand(4, 3, 5, 5),
    torch.rand(4, 7).bfloat16(),
    torch.arange(4),
]


@pytest.mark.parametrize("samples", SAMPLES, ids=lambda samples: str(samples.dtype))
def test_the_same_sample_has_the_same_origin_in_any_batch(samples: Tensor) -> None:
    origins = origins_of(samples)
    assert (origins.shape, origins.dtype) == ((4,), torch.int64)
    assert len(set(origins.tolist())) == 4
    order = torch.tensor([2, 0, 2])
    assert torch.equal(origins_of(samples[order]), origins[order])
    assert torch.equal(origins_of(samples.clone()[1:2]), origins[1:2])


def test_samples_that_lie_otherwise_in_memory_are_the_same() -> None:
    samples = torch.rand(3, 4, 5)
    apart = samples.transpose(1, 2).contiguous().transpose(1, 2)
    assert not apart.is_contiguous()
    assert torch.equal(origins_of(apart), origins_of(samples))


def test_an_origin_has_no_gradient_and_is_traced_as_one_operator() -> None:
    samples = torch.rand(3, 4, requires_grad=True)
    assert not origins_of(samples).requires_grad
    compiled = torch.compile(origins_of, backend="eager", fullgraph=True)
    assert torch.equal(compiled(samples), origins_of(samples))
    torch.library.opcheck(torch.ops.aesg.origins.default, (samples.detach(),))
