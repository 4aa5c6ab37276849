"""BLEU, ROUGE, accuracy and perplexity, against sacrebleu and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchmetrics.functional.text import bleu_score
from torchmetrics.functional.text import perplexity as reference_perplexity

from aesg import AESGTrainingError
from aesg.evaluation import DomainMetrics, Evaluator

PREDICTIONS = [
    "the cat sat on the mat",
    "hello world",
    "a quick brown fox jumps over the lazy dog again and again",
    "",
    "nothing in common here at all",
]
REFERENCES = [
    "the cat sat on a mat",
    "hello world",
    "the quick brown fox jumps over a lazy dog again",
    "an empty prediction",
    "quite other words were expected",
]

TEXTS = st.lists(st.sampled_from("abc"), max_size=9).map(" ".join)


def sacrebleu_of(predictions: list[str], references: list[str]) -> float:
    scorer = sacrebleu.BLEU(tokenize="none", smooth_method="none", effective_order=True)
    return float(scorer.corpus_score(predictions, [references]).score) / 100


def text(predictions: Any, references: Any) -> dict[str, float]:
    return Evaluator.compute_text_metrics(predictions, references)


def judged(output: Any, targets: Any) -> dict[str, float]:
    metrics = DomainMetrics("text")
    metrics.update(output, targets)
    return metrics.compute()


class TestBLEU:
    def test_is_that_of_sacrebleu(self) -> None:
        expected = sacrebleu_of(PREDICTIONS, REFERENCES)
        assert 0.3 < expected < 0.9
        assert text(PREDICTIONS, REFERENCES)["bleu"] == pytest.approx(expected, abs=1e-6)

    def test_is_that_of_torchmetrics(self) -> None:
        expected = bleu_score(PREDICTIONS, [[each] for each in REFERENCES])
        assert text(PREDICTIONS, REFERENCES)["bleu"] == pytest.approx(float(expected), abs=1e-6)

    @settings(max_examples=50)
    @given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
    def test_is_that_of_sacrebleu_for_any_texts(self, pairs: list[tuple[str, str]]) -> None:
        predictions, references = [made for made, _ in pairs], [wanted for _, wanted in pairs]
        expected = sacrebleu_of(predictions, references)
        assert text(predictions, references)["bleu"] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("prediction", "reference"),
        [
            ("hello", "hello"),
            ("hello world", "hello world"),
            ("hello big world", "hello world"),
            ("hello world", "hello big world"),
            ("hello", "hello world and all who live there"),
            ("one two three", "three two one"),
            ("one two three four", "one two three four five"),
        ],
    )
    def test_of_short_texts_counts_the_ngrams_that_there_are(
        self, prediction: str, reference: str
    ) -> None:
        expected = sacrebleu_of([prediction], [reference])
        assert text([prediction], [reference])["bleu"] == pytest.approx(expected, abs=1e-6)

    def test_of_a_short_text_that_is_right_is_one(self) -> None:
        assert text(["hello world"], ["hello world"])["bleu"] == pytest.approx(1)

    def test_is_zero_without_four_words_in_a_row(self) -> None:
        assert text(["a b c x d e f"], ["a b c y d e f"])["bleu"] == 0

    def test_of_a_short_prediction_is_less_than_its_precision(self) -> None:
        found = text(["the cat sat on the"], ["the cat sat on the mat all day"])["bleu"]
        assert found == pytest.approx(math.exp(1 - 8 / 5))

    def test_is_zero_where_nothing_was_predicted(self) -> None:
        assert text(["", ""], ["some words", "and more"])["bleu"] == 0

    def test_takes_each_chinese_character_for_a_word(self) -> None:
        apart = sacrebleu_of(["今 天 天 气 很 好"], ["今 天 天 气 不 好"])
        found = text(["今天天气很好"], ["今天天气不好"])["bleu"]
        assert 0.4 < found == pytest.approx(apart, abs=1e-6)


class TestROUGE:
    def test_is_the_share_of_a_references_words_that_its_prediction_has(self) -> None:
        found = text(["the cat sat on the mat", "hello"], ["the cat sat on a mat", "hello world"])
        assert found["rouge"] == pytest.approx((5 / 6 + 1 / 2) / 2)

    def test_is_recall_alone(self) -> None:
        assert text(["one two three four"], ["one two"])["rouge"] == pytest.approx(1)
        assert text(["one two"], ["one two three four"])["rouge"] == pytest.approx(0.5)

    def test_counts_a_word_as_often_as_the_prediction_has_it(self) -> None:
        assert text(["the"], ["the the the the"])["rouge"] == pytest.approx(0.25)

    def test_leaves_case_and_punctuation_out(self) -> None:
        assert text(["hello, WORLD!"], ["Hello world"])["rouge"] == pytest.approx(1)

    @pytest.mark.parametrize(
        ("prediction", "reference", "expected"),
        [
            ("привет мир", "привет, мир!", 1),
            ("привет", "привет мир", 1 / 2),
            ("नमस्ते दुनिया", "नमस्ते संसार", 1 / 2),
            ("שלום עולם", "שלום לכולם", 1 / 2),
            ("こんにちは", "こんばんは", 3 / 5),
            ("naïve café", "naïve cafe", 1 / 2),
        ],
    )
    def test_keeps_words_of_other_scripts(
        self, prediction: str, reference: str, expected: float
    ) -> None:
        assert text([prediction], [reference])["rouge"] == pytest.approx(expected)

    def test_of_different_words_of_one_script_is_zero(self) -> None:
        assert text(["नमस्ते"], ["नमस्कार"])["rouge"] == 0

    def test_passes_over_references_without_words(self) -> None:
        assert text(["one", "two"], ["one", " \n"])["rouge"] == pytest.approx(1)
        assert text([""], [""])["rouge"] == 0

    @pytest.mark.parametrize(
        ("prediction", "reference", "expected"),
        [
            ("\N{GRINNING FACE} \N{GRINNING FACE}", "\N{GRINNING FACE}\N{GRINNING FACE}", 1),
            ("+ = {", "+ - = {", 3 / 4),
            ("words", "...", 0),
            ("...", "words...", 0),
        ],
    )
    def test_takes_symbols_for_words_where_the_reference_has_only_these(
        self, prediction: str, reference: str, expected: float
    ) -> None:
        assert text([prediction], [reference])["rouge"] == pytest.approx(expected)


class TestAccuracy:
    def test_is_the_share_of_predictions_that_equal_their_reference(self) -> None:
        assert text(["a", "b", "C", "d "], ["a", "b", "c", "d"])["accuracy"] == 0.5


class TestCharacterPerplexity:
    def test_is_e_to_the_cross_entropy_of_the_references_characters(self) -> None:
        # "aab" says 3 of 6 for a, 2 of 6 for b and 1 of 6 for c, add-one smoothed.
        expected = math.exp(-(math.log(3 / 6) + math.log(1 / 6)) / 2)
        assert text(["aab"], ["ac"])["perplexity"] == pytest.approx(expected)

    def test_is_one_where_only_one_character_can_come(self) -> None:
        assert text(["aaaa"], ["aa"])["perplexity"] == 1
        assert text([""], [""])["perplexity"] == 1

    def test_is_lower_for_the_prediction_that_is_nearer(self) -> None:
        reference = ["the quick brown fox"]
        near = text(["the quick brown dog"], reference)["perplexity"]
        assert near < text(["0123456789 0123456"], reference)["perplexity"] < math.inf

    def test_is_that_of_each_prediction_with_its_own_reference(self) -> None:
        right = text(["aaaa", "bbbb"], ["aaaa", "bbbb"])["perplexity"]
        assert right < text(["bbbb", "aaaa"], ["aaaa", "bbbb"])["perplexity"]


class TestScoresOfTokens:
    @pytest.fixture
    def scores(self) -> torch.Tensor:
        return torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(0))

    @pytest.fixture
    def tokens(self, scores: torch.Tensor) -> torch.Tensor:
        tokens = scores.argmax(-1)
        tokens[:, 5:] = (tokens[:, 5:] + 1) % 11
        tokens[0, 3:] = -100
        return tokens

    def test_have_the_perplexity_of_the_model(
        self, scores: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        expected = float(reference_perplexity(scores, tokens, ignore_index=-100))
        assert judged(scores, tokens)["perplexity"] == pytest.approx(expected)
        found = Evaluator.compute_model_perplexity(scores, tokens)
        assert found == pytest.approx(expected)

    def test_have_the_accuracy_of_the_known_tokens(
        self, scores: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        known = (tokens != -100).sum()
        right = (scores.argmax(-1) == tokens).sum()
        assert 0.5 < (found := judged(scores, tokens)["accuracy"]) < 1
        assert found == pytest.approx(float(right / known))

    def test_have_bleu_and_rouge_of_the_most_probable_tokens(
        self, scores: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        made = [
            " ".join(str(int(each)) for each in row[came != -100])
            for row, came in zip(scores.argmax(-1), tokens, strict=True)
        ]
        wanted = [" ".join(str(int(each)) for each in row if each != -100) for row in tokens]
        expected = text(made, wanted)
        found = judged(scores, tokens)
        assert 0 < found["bleu"] == pytest.approx(expected["bleu"])
        assert 0 < found["rouge"] == pytest.approx(expected["rouge"])

    def test_may_have_their_tokens_in_the_order_of_torch(
        self, scores: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        swapped = judged(scores.transpose(1, 2), tokens)
        assert swapped == judged(scores, tokens)

    def test_may_be_log_probabilities(self, scores: torch.Tensor, tokens: torch.Tensor) -> None:
        found = Evaluator.compute_model_perplexity(scores.log_softmax(-1), tokens)
        assert found == pytest.approx(Evaluator.compute_model_perplexity(scores, tokens))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_may_be_of_any_floating_type(
        self, scores: torch.Tensor, tokens: torch.Tensor, dtype: torch.dtype
    ) -> None:
        found = Evaluator.compute_model_perplexity(scores.to(dtype).requires_grad_(), tokens)
        expected = Evaluator.compute_model_perplexity(scores, tokens)
        assert found == pytest.approx(expected, rel=0.02)

    def test_of_a_model_that_is_sure_and_wrong_is_not_infinite(self) -> None:
        scores = torch.tensor([[[0.0, 300.0]]])
        found = Evaluator.compute_model_perplexity(scores, torch.tensor([[0]]))
        assert found == pytest.approx(math.exp(300))

    def test_of_what_cannot_be_is_infinite(self) -> None:
        scores = torch.tensor([[0.0, -math.inf], [0.0, 0.0]])
        assert Evaluator.compute_model_perplexity(scores, torch.tensor([1, 0])) == math.inf
        scores = torch.tensor([[0.0, 1e6]])
        assert Evaluator.compute_model_perplexity(scores, torch.tensor([0])) == math.inf

    def test_may_ignore_another_number(self, scores: torch.Tensor, tokens: torch.Tensor) -> None:
        padded = tokens.masked_fill(tokens == -100, 0)
        kept = padded != 0
        expected = math.exp(float(F.cross_entropy(scores[kept], padded[kept])))
        found = Evaluator.compute_model_perplexity(scores, padded, ignore_index=0)
        assert found == pytest.approx(expected)


class TestGeneratedTokens:
    def test_are_compared_as_rows(self) -> None:
        made = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]])
        wanted = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])
        found = judged(made, wanted)
        assert found["accuracy"] == 0.5
        assert found["rouge"] == pytest.approx(0.9)
        assert found["bleu"] == pytest.approx(
            sacrebleu_of(["1 2 3 4 5", "1 2 3 4 6"], ["1 2 3 4 5"] * 2)
        )
        assert found["perplexity"] > 1

    def test_may_be_of_different_lengths(self) -> None:
        found = judged([[1, 2, 3], [7], []], [[1, 2, 3], [7, 8], [9]])
        assert found["accuracy"] == pytest.approx(1 / 3)
        assert found["rouge"] == pytest.approx((1 + 1 / 2 + 0) / 3)

    def test_may_be_a_tensor_for_longer_references(self) -> None:
        found = judged(torch.tensor([[1, 2]]), torch.tensor([[1, 2, 3, -100]]))
        assert found["rouge"] == pytest.approx(2 / 3)

    def test_are_not_judged_where_it_is_not_known_what_came(self) -> None:
        found = judged(torch.tensor([[9, 1, 2, 9]]), torch.tensor([[-100, 1, 2, -100]]))
        assert found["accuracy"] == 1
        assert found["rouge"] == 1


class TestBatches:
    def test_of_strings_give_what_all_at_once_give(self) -> None:
        metrics = DomainMetrics("text")
        for start in range(0, len(PREDICTIONS), 2):
            metrics.update(PREDICTIONS[start : start + 2], REFERENCES[start : start + 2])
        assert metrics.compute() == pytest.approx(text(PREDICTIONS, REFERENCES))

    def test_of_scores_give_what_all_at_once_give(self) -> None:
        scores, tokens = torch.randn(6, 4, 5), torch.randint(0, 5, (6, 4))
        tokens[2] = -100
        metrics = DomainMetrics("text")
        for batch in ([0, 1], [2], [3, 4, 5]):
            metrics.update(scores[batch], tokens[batch])
        assert metrics.compute() == pytest.approx(judged(scores, tokens))

    def test_without_a_known_token_have_no_metrics_yet(self) -> None:
        metrics = DomainMetrics("text")
        metrics.update(torch.randn(1, 2, 3), torch.full((1, 2), -100))
        assert set(metrics.compute()) == {"bleu", "rouge", "accuracy", "perplexity"}
        assert all(math.isnan(each) for each in metrics.compute().values())


class TestRefused:
    @pytest.mark.parametrize(
        ("predictions", "references", "message"),
        [
            ([], [], "predictions: expected at least one, got none"),
            (["a"], ["a", "b"], "as many as there are targets, 2, got 1"),
            ("one text", "one text", "predictions: expected a list of strings, got str"),
            (["a"], "a", "targets: expected a list of strings, got str"),
            (["a", None], ["a", "b"], r"predictions\[1\]: expected a string, got NoneType"),
            (["a", "b"], ["a", 3], r"targets\[1\]: expected a string, got int"),
            (["a"], [["a", "b"]], r"targets\[0\]: expected a string, got list"),
            (None, ["a"], "predictions: expected a list of strings, got NoneType"),
            (3, 4, "predictions: expected strings, scores or tokens, got int"),
            (
                [[1.5]],
                [[1]],
                r"predictions\[0\]: expected a row of integer tokens, got torch.float",
            ),
            ([None], [None], r"predictions\[0\]: expected a tensor, got NoneType"),
            ({"a": "x"}, {"a": "y"}, "predictions: expected a list, got dict"),
            (["a"], {"a"}, "targets: expected a list, got set"),
        ],
    )
    def test_texts_that_cannot_be_compared(
        self, predictions: Any, references: Any, message: str
    ) -> None:
        with pytest.raises(AESGTrainingError, match=message):
            text(predictions, references)

    @pytest.mark.parametrize(
        ("scores", "tokens", "message"),
        [
            (torch.full((1, 2, 3), math.nan), [[0, 1]], "expected numbers, got nan at .0, 0, 0."),
            (torch.full((1, 2, 3), math.inf), [[0, 1]], "expected numbers, got inf"),
            (torch.full((1, 2, 3), -math.inf), [[0, 1]], "a token above -inf"),
            (torch.zeros(1, 2, 3), [[0, 3]], r"classes in \[0, 3\), got 3"),
            (torch.zeros(1, 2, 3), [[0, -1]], r"classes in \[0, 3\), got -1"),
            (torch.zeros(1, 2, 3), [[0, 1, 2, 0]], r"output \(1, 2, 3\) and targets \(1, 4\)"),
            (torch.zeros(1, 2, 3), [[0.0, 1.0]], "targets: expected integer tokens"),
            (torch.zeros(0, 2, 3), [[0, 1]], r"at least 1 element, got shape \(0, 2, 3\)"),
            (torch.zeros(1, 2, 3), [[-100, -100]], "at least one that is not ignored .-100."),
            ("text", [[0, 1]], "predictions: expected a tensor, got str"),
            (torch.zeros(1, 2, 3, dtype=torch.long), [[0, 1]], "expected floating scores"),
        ],
    )
    def test_scores_that_cannot_be_judged(self, scores: Any, tokens: Any, message: str) -> None:
        with pytest.raises(AESGTrainingError, match=message):
            Evaluator.compute_model_perplexity(scores, torch.tensor(tokens))

    @pytest.mark.parametrize("ignored", [None, "x", 1.5, True])
    def test_what_is_no_token_to_ignore(self, ignored: Any) -> None:
        with pytest.raises(AESGTrainingError, match="ignore_index: expected an integer, got"):
            Evaluator.compute_model_perplexity(
                torch.zeros(2, 3), torch.tensor([0, 1]), ignore_index=ignored
            )


def test_scores_of_classes_that_count_as_text_are_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesg.evaluation.inputs._hinted", set())
    Evaluator.evaluate(None, torch.randn(1, 4, 3), torch.zeros(1, 4).long(), domain="text")
    assert not caplog.messages
    for _ in range(2):
        Evaluator.evaluate(None, torch.randn(4, 3), torch.zeros(4).long(), domain="text")
    assert len(caplog.messages) == 1
    assert "domain='classification'" in caplog.text
