"""The Transformer encoder and its memory cross-attention."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from aesg import AESGConfigError, AESGTrainer, AESGTrainingError
from aesg.models import AESGTransformer
from aesg.nn import MemoryCrossAttention
from tests.memory_build import DIM, opened, patterns
from tests.test_decoder_lm import VOCAB, text

HIDDEN = 12
HEADS = 3


def encoder(directory: str | Path = "memory", **options: Any) -> AESGTransformer:
    """Return a tiny model; the same weights each time."""
    torch.manual_seed(0)
    memory = opened(directory, novelty_birth_threshold=2)
    given = {"hidden_size": 32, "num_layers": 2, "nhead": 4, "top_k": 4, "memory_dropout": 0.0}
    return AESGTransformer(VOCAB, memory, **{**given, **options})


def filled(**options: Any) -> AESGTransformer:
    """Return a model in eval mode whose memory holds concepts, all of which show in the output."""
    model = encoder(**options).eval()
    model.memory.set_mode("ONLINE")
    for seed in (1, 2, 1, 2, 3):
        with torch.no_grad():
            model(text(seed=seed))
        model.observe(text(seed=seed + 50))
        model.memory.update_topology()
    model.memory.save()
    for cross in model.cross_attentions.children():
        nn.init.normal_(cross.get_parameter("out.weight"), std=0.3)
    if model.mixture is not None:
        nn.init.normal_(model.mixture.gate.weight, std=0.1)
    nn.init.normal_(model.memory.abstraction_projection.weight, std=0.1)
    return model


@pytest.fixture
def model() -> Iterator[AESGTransformer]:
    made = filled()
    yield made
    made.memory.close()


# Cross-attention


def attention(**options: Any) -> MemoryCrossAttention:
    """Return a layer over seven concepts, with an output layer that is not zero."""
    torch.manual_seed(0)
    memory = opened()
    memory.remember(patterns(*range(7)), [4, 2, 4, 0, 1, 2, 9])
    layer = MemoryCrossAttention(HIDDEN, memory, HEADS, top_k=5, **options)
    nn.init.normal_(layer.out.weight)
    nn.init.normal_(layer.null)
    return layer


def dense(layer: MemoryCrossAttention, hidden: Tensor, values: Tensor | None) -> Tensor:
    """Return what the layer gives, position by position, head by head, concept by concept."""
    context = layer.memory.recall(layer.query(hidden), top_k=layer.top_k)
    out = hidden.clone()
    time, every = hidden.shape[1], layer.query.every
    normed = layer.norm(hidden)
    width = HIDDEN // HEADS
    for b in range(hidden.shape[0]):
        for t in range(time):
            place = t // every if isinstance(every, int) else 0
            mixed = []
            for head in range(HEADS):
                own = layer.heads.weight[head * DIM : (head + 1) * DIM] @ normed[b, t]
                weights = context.weights[b, place]
                terms = [(1 - weights.sum()) * layer.null[head].exp()]
                read = torch.zeros(width)
                for k in range(weights.shape[0]):
                    value = int(context.value_ids[b, place, k])
                    if values is not None and value >= len(values):
                        continue
                    told = context.vectors[b, place, k] if values is None else values[value]
                    terms.append(weights[k] * (own @ context.keys[b, place, k]).exp())
                    rows = layer.values.weight[head * width : (head + 1) * width]
                    read = read + terms[-1] * (rows @ told)
                mixed.append(read / torch.stack(terms).sum())
            out[b, t] = hidden[b, t] + layer.out.weight @ torch.cat(mixed)
    return out


@pytest.mark.parametrize("every", [1, 2, 3, "sample"])
@pytest.mark.parametrize("integers", [True, False])
def test_cross_attention_is_attention_over_each_concept(every: Any, integers: bool) -> None:
    layer = attention(every=every, value_size=6 if integers else None).eval()
    values = torch.randn(5, 6) if integers else None  # no row for the value 9
    hidden = torch.randn(2, 7, HIDDEN)
    got = layer(hidden, values)
    assert_close(got, dense(layer, hidden, values), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(got, hidden, atol=1e-2)


def test_cross_attention_leaves_hidden_states_alone_at_first() -> None:
    layer, hidden = attention(), torch.randn(2, 3, HIDDEN)
    nn.init.zeros_(layer.out.weight)
    assert torch.equal(layer(hidden), hidden)


def test_cross_attention_leaves_hidden_states_alone_where_nothing_was_retrieved() -> None:
    layer, hidden = attention(), torch.randn(2, 3, HIDDEN)
    layer.memory = opened("empty")
    assert torch.equal(layer(hidden), hidden)


def test_where_no_value_has_a_row_nothing_is_heard() -> None:
    layer, hidden = attention(value_size=6), torch.randn(2, 3, HIDDEN)
    layer.memory = opened("beyond")
    layer.memory.remember(patterns(0, 1), [5, 9])
    assert torch.equal(layer(hidden, torch.randn(5, 6)), hidden)


def test_gradients_reach_every_part_of_the_cross_attention() -> None:
    layer, hidden = attention(value_size=6), torch.randn(2, 3, HIDDEN, requires_grad=True)
    values = torch.randn(5, 6, requires_grad=True)
    layer(hidden, values).square().sum().backward()
    parts = dict(layer.named_parameters(remove_duplicate=True))
    for name in ("query.projection", "heads", "values", "out", "norm"):
        gradient = parts[f"{name}.weight"].grad
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert gradient.any(), name
    for leaf in (hidden, values, layer.null, layer.memory.log_scale):
        assert leaf.grad is not None
        assert leaf.grad.any()


def test_one_call_learns_what_came() -> None:
    layer = attention(value_size=6)
    layer.memory.set_mode("ONLINE")
    layer(torch.randn(2, 3, HIDDEN), torch.randn(5, 6), outcomes=torch.arange(6).view(2, 3))
    layer.memory.update_topology()
    assert layer.memory._state.shortterm.entries["value_id"].tolist() == list(range(6))


@pytest.mark.parametrize(("value_size", "values"), [(6, None), (None, torch.zeros(5, 6))])
def test_values_of_the_wrong_kind_are_errors(value_size: int | None, values: Tensor | None) -> None:
    layer = attention(value_size=value_size)
    with pytest.raises(AESGConfigError, match="values: expected"):
        layer(torch.randn(2, 3, HIDDEN), values)


def test_heads_that_do_not_fit_are_errors() -> None:
    with pytest.raises(AESGConfigError, match="divisible by nhead: got 12 and 5"):
        MemoryCrossAttention(HIDDEN, opened(), 5)


# The model


@pytest.mark.parametrize(
    ("size", "hidden_size", "layers", "vector_dim", "nhead"),
    [("small", 128, 1, 64, 4), ("medium", 256, 2, 128, 8), ("large", 512, 4, 256, 16)],
)
def test_the_documented_sizes(
    size: str, hidden_size: int, layers: int, vector_dim: int, nhead: int
) -> None:
    model: AESGTransformer = getattr(AESGTransformer, size)(vocab_size=20)
    assert model.embedding.embedding_dim == hidden_size
    assert len(model.blocks) == len(model.cross_attentions) == layers
    assert model.blocks[0].nhead == model.cross_attentions[0].nhead == nhead
    assert model.memory.vector_dim == vector_dim
    assert model(torch.randint(0, 20, (2, 5))).shape == (2, 5, 20)
    model.memory.close()


def test_a_position_sees_the_whole_sequence_unless_the_model_is_causal() -> None:
    tokens = text(seed=2)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 7) % VOCAB
    for causal in (False, True):
        model = filled(directory=f"causal {causal}", causal=causal)
        model.memory.set_mode("INFERENCE")
        same = torch.isclose(model(tokens), model(changed), atol=1e-5).all(-1)
        assert same[:, :-1].all() if causal else not same.any()
        assert not same[:, -1].any()


@pytest.mark.parametrize("query_every", [1, 3, "sample"])
def test_a_sample_reads_the_same_alone_and_in_a_batch(query_every: Any) -> None:
    model = filled(query_every=query_every)
    model.memory.set_mode("TRAIN")
    tokens = torch.cat([text(seed=2), text(seed=9)])
    together = model(tokens)
    for row in range(len(tokens)):
        assert_close(model(tokens[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)
    model.memory.reset_state()


def test_the_memory_shows_in_the_output_and_an_empty_one_does_not(model: AESGTransformer) -> None:
    model.memory.set_mode("INFERENCE")
    tokens = text(seed=2)
    with model.without_memory():
        alone = model(tokens)
    assert not torch.allclose(model(tokens), alone, atol=1e-3)
    assert_close(model(tokens).exp().sum(-1), torch.ones(tokens.shape))
    emptied = copy.deepcopy(model)
    emptied.memory = opened("empty", memory_mode="INFERENCE")
    assert torch.equal(emptied(tokens), alone)


def test_what_the_last_layer_asks_is_learned_with_its_target() -> None:
    model = encoder().eval()
    model.memory.set_mode("ONLINE")
    tokens, targets = text(batch=2, time=4), torch.arange(20, 28).view(2, 4)
    asked = model.queries(tokens)
    model(tokens)
    model.observe(targets)
    model.memory.update_topology()
    held = model.memory._state.shortterm.entries
    assert held["value_id"].tolist() == targets.flatten().tolist()
    assert len(asked.flatten(0, 1)) == 8
    found = model.memory.recall(asked, top_k=1)
    assert_close(found.keys[..., 0, :], F.normalize(asked.detach(), dim=-1))
    assert torch.equal(found.value_ids[..., 0], targets)


def test_a_query_tells_which_token_it_is_more_than_where_it_stands() -> None:
    tokens = torch.arange(VOCAB).view(10, 5)  # every token once
    queries = F.normalize(encoder(hidden_size=128, num_layers=1).eval().queries(tokens), dim=-1)
    same_place = torch.einsum("btd,ctd->tbc", queries, queries)
    others = ~torch.eye(len(tokens), dtype=torch.bool)
    assert same_place[:, others].mean() < 0.6


@pytest.mark.parametrize("layers", [1, 2])
def test_keys_are_those_of_the_trained_network(layers: int) -> None:
    model = encoder(num_layers=layers)
    assert model.asks_first == (layers == 1)
    tokens, targets = text(batch=2, time=4), torch.arange(20, 28).view(2, 4)
    AESGTrainer(model, batch_size=2, progress=False).fit([*zip(tokens, targets, strict=True)])
    model.eval()
    model.memory.set_mode("TRAIN")  # no sample reads what it has taught, as in the refresh
    asked = F.normalize(model.queries(tokens).detach(), dim=-1)
    model.memory.set_mode("INFERENCE")
    found = model.memory.recall(asked, top_k=1)
    assert torch.equal(found.value_ids[..., 0], targets)
    assert_close(found.keys[..., 0, :], asked)


# Words whose tags are told once

TAGS, WORDS, NEW = 8, 400, 20


def tagger() -> tuple[AESGTransformer, AESGTrainer, Tensor]:
    """Return a model trained on words before the last `NEW` ones, and the tags of all."""
    dice = torch.Generator().manual_seed(1)
    tags = torch.randint(0, TAGS, (WORDS,), generator=dice)
    torch.manual_seed(1)
    model = AESGTransformer.sized(
        TAGS + WORDS, hidden_size=64, num_layers=1, nhead=2, vector_dim=32, top_k=8
    )
    trainer = AESGTrainer(model, batch_size=4, progress=False)
    words = torch.randint(0, WORDS - NEW, (300, 6), generator=dice)
    trainer.fit(list(zip(words + TAGS, tags[words], strict=True)))
    return model, trainer, tags


def sentences(seed: int) -> Tensor:
    """Return words ``(NEW, 6)`` with a new one in each, at some place."""
    dice = torch.Generator().manual_seed(seed)
    words = torch.randint(0, WORDS - NEW, (NEW, 6), generator=dice)
    places = torch.randint(0, 6, (NEW, 1), generator=dice)
    new = WORDS - NEW + torch.randperm(NEW, generator=dice)
    return words.scatter(1, places, new[:, None])


def test_a_word_whose_tag_was_told_once_is_known_in_another_sentence() -> None:
    model, trainer, tags = tagger()
    told, asked = sentences(1), sentences(2)

    def known() -> float:
        right = trainer.predict(asked + TAGS).argmax(-1) == tags[asked]
        return right[asked >= WORDS - NEW].float().mean().item()

    before = known()
    trainer.evaluate(list(zip(told + TAGS, tags[told], strict=True)), mode="ONLINE")
    assert before < 0.4
    assert known() > 0.7
    model.memory.close()


def test_words_never_read_are_told_apart_by_a_trained_network() -> None:
    model, _, _ = tagger()
    asked = sentences(2)
    queries = model.eval().queries(asked + TAGS)[asked >= WORDS - NEW]
    cosines = F.cosine_similarity(queries, queries.unsqueeze(1), dim=-1)
    assert cosines[~torch.eye(NEW, dtype=torch.bool)].mean() < 0.25
    model.memory.close()


# What the model reads, and what it is made of


def test_a_causal_model_reads_from_the_input_what_came_next() -> None:
    model = encoder(causal=True).eval()
    model.memory.set_mode("ONLINE")
    tokens = torch.randperm(VOCAB)[:10].view(2, 5)
    model(tokens)
    model.memory.update_topology()
    held = model.memory._state.shortterm.entries
    assert held["value_id"].tolist() == tokens[:, 1:].flatten().tolist()


def test_a_target_that_was_seen_becomes_likelier(model: AESGTransformer) -> None:
    model.memory.set_mode("INFERENCE")
    tokens, targets = text(seed=2), text(seed=52)
    with model.without_memory():
        alone = model(tokens).gather(-1, targets[..., None]).mean()
    assert model(tokens).gather(-1, targets[..., None]).mean() > alone + 0.05


def test_gradients_reach_all_through_which_the_memory_speaks(model: AESGTransformer) -> None:
    model.memory.set_mode("TRAIN")
    model(text(seed=9)).gather(-1, text(seed=8)[..., None]).mean().backward()
    spoken = {id(each) for each in model.memory_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        parts = ("memory", "cross_attentions", "mixture")
        assert (id(parameter) in spoken) == (name.split(".")[0] in parts), name
        if "reach" not in name:  # which matters where activation went along edges
            assert parameter.grad.any(), name


@pytest.mark.parametrize("query_every", [1, 4, "sample"])
def test_the_documented_training_runs_and_grows_the_memory(query_every: Any) -> None:
    model = AESGTransformer.small(100, query_every=query_every, novelty_birth_threshold=2)
    pairs = [(torch.randint(0, 100, (10,)), torch.randint(0, 100, (10,))) for _ in range(8)]
    trainer = AESGTrainer(model, batch_size=4, progress=False)
    losses = trainer.fit(pairs, epochs=3)
    assert all(math.isfinite(loss) for loss in losses)
    assert model.memory.provisional_count + model.memory.storage.node_count > 0
    assert trainer.predict(torch.randint(0, 100, (2, 10))).shape == (2, 10, 100)
    assert model.memory.storage.verify() == []
    model.memory.close()


def test_weights_and_directory_make_the_same_model(model: AESGTransformer, tmp_path: Path) -> None:
    model.memory.set_mode("INFERENCE")
    out = model(text(seed=2))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    model.memory.close()
    other = encoder().eval()
    other.memory.set_mode("INFERENCE")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(text(seed=2)), out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_reads_and_learns(dtype: torch.dtype) -> None:
    model = filled().to(dtype)
    with torch.no_grad():
        out = model(text())
    assert_close(out.exp().sum(-1), torch.ones(4, 9, dtype=out.dtype))
    model.observe(text())
    model.memory.update_topology()
    assert model.memory.storage.verify() == []


def test_a_model_under_autocast_reads_as_without() -> None:
    model = filled(num_layers=1)  # what a second layer finds may hang on the last bits of the first
    model.memory.set_mode("INFERENCE")
    with torch.no_grad():
        plain = model(text())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse = model(text())
    assert_close(coarse.float(), plain, atol=0.3, rtol=0.1)


@pytest.mark.parametrize("every", [1, "sample"])
def test_without_targets_nothing_is_learned(every: Any) -> None:
    model = encoder(query_every=every)
    model(text())
    model.memory.update_topology()
    assert (model.memory.provisional_count, model.memory.rates.queries) == (0, 0)


@pytest.mark.parametrize("every", [1, "sample"])
@pytest.mark.parametrize("targets", [torch.zeros(4, dtype=torch.long), torch.zeros(4, 9)])
def test_targets_that_are_not_of_positions_are_refused(every: Any, targets: Tensor) -> None:
    with pytest.raises(AESGTrainingError, match=r"shape \(batch, time\), -100 .* got torch"):
        encoder(query_every=every).outcomes(targets)


def test_mistakes_are_errors() -> None:
    memory = opened()
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"hidden_size": 30, "nhead": 4}, "divisible by nhead: got 30 and 4"),
        ({"num_layers": 0}, "num_layers must be >= 1"),
        ({"top_k": 0}, "top_k must be >= 1"),
        ({"query_every": "sample", "causal": True}, "holds what comes after"),
        ({"query_every": 0}, "query_every: expected an integer >= 1 or 'sample', got 0"),
    ]
    for options, message in mistakes:
        with pytest.raises(AESGConfigError, match=message):
            AESGTransformer(VOCAB, memory, **options)
    with pytest.raises(AESGTrainingError, match="got 50"):
        encoder("other")(torch.full((1, 2), VOCAB))
