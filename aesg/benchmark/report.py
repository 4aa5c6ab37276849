"""The report of a run, in markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aesg.benchmark.output import HEADING
from aesg.benchmark.pictures import Pictures
from aesg.benchmark.results import UNSHOWN, Comparison, ModelResult, Question
from aesg.benchmark.settings import FOLDER, Settings

#: Names of the columns.
TITLES = {
    "aesg": "AESG",
    "baseline": "baseline CNN",
    "ablated": "AESG, memory ablated",
    "gray": "the gray picture",
    UNSHOWN: "AESG before it was shown them",
}

_DIGITS = {"psnr": 2, "ssim": 4}
_UNITS = {"psnr": " dB", "ssim": ""}
_MEASURES = {"psnr": "PSNR", "ssim": "SSIM"}
_QUESTIONS: dict[Question, str] = {
    "unseen": "Pictures that neither model had seen",
    "seen": "Other views of pictures that the memory was shown once",
}
#: What a difference above zero, below it, or neither says of a model and another column.
_WORDS = {
    "baseline": (
        "AESG is better than the baseline CNN",
        "AESG is worse than the baseline CNN",
        "no difference to the baseline CNN can be told",
    ),
    "ablated": (
        "reading the memory helps",
        "reading the memory harms",
        "reading the memory makes no difference that can be told",
    ),
    UNSHOWN: (
        "having been shown them helps",
        "having been shown them harms",
        "having been shown them makes no difference that can be told",
    ),
    "gray": (
        "{model} is better than the gray picture",
        "{model} is worse than the gray picture",
        "no difference of {model} to the gray picture can be told",
    ),
}
#: Models in the midst of a sentence.
_MODELS = {"aesg": "AESG", "baseline": "the baseline CNN"}
#: Models and columns that they are compared with, for each question.
_COMPARED: dict[Question, tuple[tuple[str, str], ...]] = {
    "unseen": (("aesg", "baseline"), ("aesg", "ablated"), ("aesg", "gray"), ("baseline", "gray")),
    "seen": (("aesg", "baseline"), ("aesg", "ablated"), ("aesg", UNSHOWN)),
}

_METHOD = """## What was done

- A seed decides which fifth of the pictures is judged, the first weights, and the order of
  training. No picture is in both parts.{squares}
- The baseline has the encoder and decoder of `AESGColorizationNet`, with the same first weights,
  and nothing else. Both are trained by `AESGTrainer` on the same batches in the same order.
- Memory ablated: the trained AESG model, with its memory neither read nor written.
- PSNR and SSIM are of each picture, then averaged. (`Evaluator` pools the squared errors of all
  pictures before it takes the logarithm; its PSNR is lower.)
- Other views: when all had been judged, the memory was shown the judged pictures once, in colour
  and without a step of the optimizer. Then each was cut at another place, 7/8 of its side, made
  darker or brighter by up to a fifth, and coloured again. The baseline cannot be told anything in
  this way."""


@dataclass(frozen=True)
class Facts:
    """What a report tells.

    Parameters
    ----------
    settings : Settings
    pictures : Pictures
    judged : int
        How many of the pictures are judged.
    results : mapping
        The `ModelResult` of each column.
    comparisons : sequence of Comparison
    environment : mapping
    samples : sequence of str
        Strips, as paths that the report may name.
    plots : str or None
        The plots, likewise; None where they could not be drawn.
    """

    settings: Settings
    pictures: Pictures
    judged: int
    results: Mapping[str, ModelResult]
    comparisons: Sequence[Comparison]
    environment: Mapping[str, str | int]
    samples: Sequence[str]
    plots: str | None


def report(facts: Facts) -> str:
    """Return the report."""
    sections = (
        _heading(facts),
        _in_short(facts),
        *(_marks(facts, question) for question in _QUESTIONS),
        _training(facts),
        _plots(facts),
        *([_samples(facts)] if facts.samples else []),
        _method(facts),
        _settings(facts),
    )
    return "\n\n".join(sections) + "\n"


def _heading(facts: Facts) -> str:
    count, side = len(facts.pictures.pixels), facts.settings.image_size
    lines = [
        HEADING,
        "",
        f"{count} pictures ({facts.pictures.source}) of {side} x {side} pixels: "
        f"{count - facts.judged} to train on, {facts.judged} to judge. "
        f"{_number(facts.settings.epochs, 'epoch')}, {_number(len(facts.settings.seeds), 'seed')}.",
    ]
    lines += [f"\n{note}" for note in facts.pictures.notes]
    return "\n".join(lines)


def _in_short(facts: Facts) -> str:
    pairs = facts.comparisons[0]
    over = f"{pairs.difference.count} {pairs.over}"
    lines = [
        "## In short",
        "",
        "In brackets AESG, or the model that is named, less the other, with 95 % intervals over "
        f"{over}. A difference is called one only where zero lies outside.",
        "",
    ]
    for question, title in _QUESTIONS.items():
        lines.append(f"- {title}:")
        for model, other in _COMPARED[question]:
            found = [each for each in facts.comparisons if each.is_of(question, other, model)]
            lines.append(f"    - {verdict(*found)}")
    if _below_gray(facts.comparisons):
        lines += [
            "",
            "A model that is worse than the gray picture has not learned colours yet: train "
            "longer, or on more pictures.",
        ]
    if len(facts.settings.seeds) == 1:
        lines += [
            "",
            "One seed: the intervals are over the pictures of a single training. Another one may "
            "come out otherwise, by more than they say; three seeds or more tell.",
        ]
    return "\n".join(lines)


def verdict(*compared: Comparison) -> str:
    """Return in words what comparisons with one column say, and no more than their intervals allow.

    Parameters
    ----------
    *compared : Comparison
        One for each measure.
    """
    said = {each.measure: _said(each) for each in compared}
    where = "in this training, " if compared[0].over == "pictures" else ""
    if len(set(said.values())) == 1:
        figures = "; ".join(f"{_MEASURES[each.measure]} {_difference(each)}" for each in compared)
        return f"{where}{said[compared[0].measure]} ({figures})."
    by_measure = (
        f"by {_MEASURES[each.measure]} {said[each.measure]} ({_difference(each)})"
        for each in compared
    )
    return f"{where}{'; '.join(by_measure)}."


def _said(comparison: Comparison) -> str:
    better, worse, neither = _WORDS[comparison.against]
    words = {1: better, -1: worse, 0: neither}[comparison.difference.sign]
    return words.format(model=_MODELS[comparison.model])


def _below_gray(compared: Iterable[Comparison]) -> bool:
    return any(each.against == "gray" and each.difference.sign < 0 for each in compared)


def _marks(facts: Facts, question: Question) -> str:
    prefix = "" if question == "unseen" else "seen_"
    rows = [_row(name, result, prefix) for name, result in facts.results.items()]
    if question == "seen":
        rows.insert(1, _row(UNSHOWN, facts.results["aesg"], "unshown_"))
    marks = _table(["", "PSNR, dB", "SSIM"], rows)
    differences = _table(
        ["AESG less", "PSNR, dB", "SSIM"],
        [
            _less(facts.comparisons, question, other)
            for model, other in _COMPARED[question]
            if model == "aesg"
        ],
    )
    return f"## {_QUESTIONS[question]}\n\n{marks}\n\n{_over(facts)}\n\n{differences}"


def _over(facts: Facts) -> str:
    seeds = len(facts.settings.seeds)
    if seeds == 1:
        return f"Differences, with 95 % t-intervals over the {facts.judged} pictures of one seed:"
    return (
        f"Means of {seeds} seeds, +- their standard deviation. Differences in pairs of the same "
        "seed, with 95 % t-intervals:"
    )


def _less(comparisons: Iterable[Comparison], question: Question, other: str) -> list[str]:
    chosen = [each for each in comparisons if each.is_of(question, other)]
    return [TITLES[other], *(_signed(each) for each in chosen)]


def _training(facts: Facts) -> str:
    rows = [
        [
            TITLES[name],
            f"{result.parameters:,}",
            f"{result.memory_nodes:,}" if name == "aesg" else "-",
            f"{result.memory_edges:,}" if name == "aesg" else "-",
            f"{result.seconds:.0f}",
            ", ".join(f"{loss:.5f}" for loss in result.losses[0]),
        ]
        for name, result in facts.results.items()
        if name in ("aesg", "baseline")
    ]
    heads = ["", "parameters", "concepts", "edges", "seconds", "loss of each epoch, first seed"]
    return f"## Training\n\n{_table(heads, rows)}"


def _plots(facts: Facts) -> str:
    if facts.plots is None:
        return "## Plots\n\nNone: they need matplotlib, which `pip install aesg[bench]` brings."
    return f"## Plots\n\n![Losses, and the pictures one by one]({facts.plots})"


def _samples(facts: Facts) -> str:
    strips = "\n\n".join(f"![{Path(each).stem}]({each})" for each in facts.samples)
    return (
        "## Samples\n\n"
        "The first pictures that were judged, not chosen. From left to right: the original, the "
        "gray picture that the models are given, AESG, the baseline CNN, and AESG with its memory "
        f"ablated; below each name its PSNR.\n\n{strips}"
    )


def _method(facts: Facts) -> str:
    photos = facts.pictures.dataset == FOLDER
    squares = " The middle square of each image is taken." if photos else ""
    return _METHOD.format(squares=squares)


def _settings(facts: Facts) -> str:
    rows = [[f"`{name}`", f"{value}"] for name, value in facts.settings.described().items()]
    rows.insert(1, ["data set that was used", facts.pictures.dataset])
    rows += [[name, f"{value}"] for name, value in facts.environment.items()]
    rows.append(["SHA-256 of the pictures", facts.pictures.digest])
    return f"## Settings and environment\n\n{_table(['', ''], rows)}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(name: str, result: ModelResult, prefix: str) -> list[str]:
    return [TITLES[name], *(_with_spread(result, prefix + each, each) for each in _MEASURES)]


def _with_spread(result: ModelResult, name: str, measure: str) -> str:
    digits = _DIGITS[measure]
    spread = getattr(result, f"{name}_sd")
    mean = f"{getattr(result, name):.{digits}f}"
    return mean if spread is None else f"{mean} +- {spread:.{digits}f}"


def _signed(comparison: Comparison) -> str:
    digits, found = _DIGITS[comparison.measure], comparison.difference
    if not math.isfinite(found.half):
        return f"{found.mean:+.{digits}f}"
    return f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"


def _difference(comparison: Comparison) -> str:
    digits, unit = _DIGITS[comparison.measure], _UNITS[comparison.measure]
    found = comparison.difference
    mean = f"{found.mean:+.{digits}f}{unit}"
    if not math.isfinite(found.half):
        return f"{mean}, one value"
    return f"{mean}, {found.low:+.{digits}f} to {found.high:+.{digits}f}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
