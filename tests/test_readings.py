"""What steps read from a table, beside what each of them reads by itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from aesg.nn.values import Readings, embedded_values
from tests.test_nn import Values, context_of, shared

VOCAB, WIDTH, ROWS = 5, 3, 2
#: Of each step, the values of concepts: some have no integer, one is no token, one step is empty.
STEPS: tuple[Values, ...] = (
    [[0, 0, -1], [4, None, 2]],
    [[], []],
    [[1], [VOCAB + 2]],
    [[4, 0], [-1, -1]],
)


def scores() -> list[Tensor]:
    return [
        torch.randn(ROWS, len(step[0]), dtype=torch.float64, requires_grad=True) for step in STEPS
    ]


def weights_of(step: Values, score: Tensor) -> Tensor:
    return shared(score, step) if len(step[0]) else score


def test_steps_read_and_teach_together_what_they_do_one_by_one() -> None:
    torch.manual_seed(0)
    table = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
    held = scores()
    contexts = [context_of(s, weights_of(s, h)) for s, h in zip(STEPS, held, strict=True)]
    readings = Readings(table, len(STEPS) + 1, ROWS)  # one step more than will be
    together = torch.stack([readings(each) for each in contexts])
    alone = torch.stack([embedded_values(each, table) for each in contexts])
    assert torch.equal(together, alone)
    share = torch.randn_like(alone)
    learned = [table, *(each for each in held if each.numel())]
    gradients = [
        torch.autograd.grad((each * share).sum(), learned, retain_graph=True)
        for each in (together, alone, together)
    ]
    assert gradients[1][0].any()
    assert_close(gradients[0], gradients[1])
    assert_close(gradients[2], gradients[1])
    without_table = torch.autograd.grad((together * share).sum(), learned[1:], retain_graph=True)
    assert_close(without_table, gradients[1][1:])


def test_a_frozen_table_is_read_without_a_gradient() -> None:
    table = torch.randn(VOCAB, WIDTH)
    held = torch.zeros(ROWS, 3)
    context = context_of(STEPS[0], shared(held, STEPS[0]))
    read = Readings(table, 1, ROWS)(context)
    assert torch.equal(read, embedded_values(context, table))
    assert not read.requires_grad
