"""Which metrics fit a model, and what is taken for predictions of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aesg import AESGCNNAutoencoder, AESGCNNClassifier, AESGDecoderLM, AESGTrainingError
from aesg import models as aesg_models
from aesg.evaluation import DomainMetrics, Evaluator, domain_of

DOMAINS = {
    "AESGCNNAutoencoder": "image",
    "AESGCNNClassifier": "classification",
    "AESGColorizationNet": "image",
    "AESGDecoderLM": "text",
    "AESGGRUText": "text",
    "AESGLSTMText": "text",
    "AESGSeq2Seq": "text",
    "AESGTransformer": "text",
}

TEXT = {"bleu", "rouge", "accuracy", "perplexity"}
IMAGE = {"psnr", "ssim", "mse", "mae"}
CLASSES = {"accuracy", "precision", "recall", "f1"}


def named(name: str, *bases: type) -> Any:
    """Return a class of some name, of modules unless told otherwise."""
    return type(name, bases or (nn.Module,), {})


class TestDomain:
    def test_is_known_of_every_model(self) -> None:
        assert set(aesg_models.__all__) == set(DOMAINS)
        for name, domain in DOMAINS.items():
            model = getattr(aesg_models, name)
            assert domain_of(model.__new__(model)) == domain

    def test_of_a_subclass_is_inherited(self) -> None:
        class Poet(AESGDecoderLM):
            pass

        assert domain_of(Poet.__new__(Poet)) == "text"

    def test_of_a_subclass_may_be_another(self) -> None:
        assert domain_of(named("SentimentClassifier", named("GRUText"))()) == "classification"

    @pytest.mark.parametrize(
        ("name", "domain"),
        [
            ("MyTransformer", "text"),
            ("TransformerClassifier", "classification"),
            ("Seq2SeqAutoencoder", "image"),
            ("ClassifierTransformer", "text"),
            ("ImageColorizationNet", "image"),
            ("Net", None),
            ("classifier", None),
        ],
    )
    def test_is_the_last_that_the_name_of_the_class_says(
        self, name: str, domain: str | None
    ) -> None:
        assert domain_of(named(name)()) == domain

    @pytest.mark.parametrize(
        "wrap",
        [
            nn.Sequential,
            nn.DataParallel,
            lambda model: nn.Sequential(nn.Sequential(model)),
            lambda model: nn.Sequential(model, nn.Softmax(-1)),
            lambda model: torch.compile(model, backend="eager"),
        ],
    )
    def test_of_a_wrapper_is_that_of_the_model_within(
        self, wrap: Callable[[nn.Module], Any]
    ) -> None:
        assert domain_of(wrap(named("DigitClassifier", nn.Linear)(2, 3))) == "classification"

    def test_of_one_of_our_models_goes_before_the_name_of_its_wrapper(self) -> None:
        class TransformerWrapper(nn.Module):
            def __init__(self, model: nn.Module) -> None:
                super().__init__()
                self.model = model

        ours = AESGCNNClassifier.__new__(AESGCNNClassifier)
        nn.Module.__init__(ours)
        ours.layer = nn.Linear(1, 1)
        assert domain_of(TransformerWrapper(ours)) == "classification"
        assert domain_of(nn.Sequential(TransformerWrapper(ours))) == "classification"
        assert domain_of(TransformerWrapper(nn.Linear(1, 1))) == "text"

    def test_of_modules_that_contain_each_other_is_not_known(self) -> None:
        one, other = nn.Module(), nn.Module()
        one.part, other.part = other, one
        one.weight = nn.Parameter(torch.ones(1))
        assert domain_of(one) is None

    def test_is_not_guessed_from_one_part_of_several(self) -> None:
        part = named("Transformer", nn.Linear)(2, 2)
        assert domain_of(part) == "text"
        assert domain_of(nn.Sequential(nn.Linear(2, 2), part)) is None

    @pytest.mark.parametrize("model", [None, 3, "Classifier", nn.Linear(2, 2)])
    def test_of_anything_else_is_not_known(self, model: object) -> None:
        assert domain_of(model) is None


class TestEvaluate:
    def test_computes_what_fits_a_classifier(self) -> None:
        model = AESGCNNClassifier.sized(num_classes=5, base_filters=4, blocks=1, vector_dim=8)
        logits, targets = torch.randn(50, 5), torch.randint(0, 5, (50,))
        found = Evaluator().evaluate(model, logits, targets)
        assert found == Evaluator.compute_classification_metrics(logits, targets)
        assert set(found) == CLASSES

    def test_computes_what_fits_a_model_of_images(self) -> None:
        made, wanted = torch.rand(2, 2, 3, 12, 12)
        found = Evaluator.evaluate(named("Autoencoder")(), made, wanted)
        assert found == Evaluator.compute_image_metrics(made, wanted)
        assert set(found) == IMAGE

    def test_computes_what_fits_a_model_of_text(self) -> None:
        found = Evaluator.evaluate(named("DecoderLM")(), ["hello you"], ["hello world"])
        assert found == Evaluator.compute_text_metrics(["hello you"], ["hello world"])
        assert set(found) == TEXT

    def test_takes_the_domain_that_is_said(self) -> None:
        logits, targets = torch.randn(9, 5), torch.randint(0, 5, (9,))
        found = Evaluator.evaluate(nn.Linear(2, 5), logits, targets, domain="classification")
        assert set(found) == CLASSES
        assert set(Evaluator.evaluate(None, ["a"], ["b"], domain="text")) == TEXT

    def test_names_what_says_a_domain_where_a_class_does_not(self) -> None:
        with pytest.raises(AESGTrainingError, match=r"Linear; give evaluate its `domain`") as error:
            Evaluator.evaluate(nn.Linear(2, 5), torch.randn(9, 5), torch.zeros(9))
        for word in ("Transformer", "DecoderLM", "Classifier", "Colorization", "Autoencoder"):
            assert word in error.value.message

    @pytest.mark.parametrize("domain", ["audio", "", "Text", 3])
    def test_refuses_a_domain_that_there_is_not(self, domain: Any) -> None:
        with pytest.raises(AESGTrainingError, match="expected one of text, image, classification"):
            Evaluator.evaluate(None, ["a"], ["b"], domain=domain)
        with pytest.raises(AESGTrainingError, match="expected one of text, image, classification"):
            DomainMetrics(domain)

    def test_gives_plain_numbers(self) -> None:
        found = [
            Evaluator.compute_text_metrics(["a b"], ["a c"]),
            Evaluator.compute_image_metrics(torch.rand(1, 4, 4), torch.rand(1, 4, 4)),
            Evaluator.compute_classification_metrics(torch.randn(2, 3), torch.tensor([0, 1])),
        ]
        assert all(type(value) is float for each in found for value in each.values())


class TestListsOfBatches:
    def test_are_judged_together(self) -> None:
        logits, targets = torch.randn(10, 3), torch.randint(0, 3, (10,))
        expected = Evaluator.compute_classification_metrics(logits, targets)
        found = Evaluator.compute_classification_metrics(
            list(torch.split(logits, 4)), list(torch.split(targets, 4))
        )
        assert found == expected

    def test_may_stand_against_one_tensor(self) -> None:
        made, wanted = torch.rand(2, 5, 3, 12, 12)
        expected = Evaluator.compute_image_metrics(made, wanted)
        assert Evaluator.compute_image_metrics(list(torch.split(made, 2)), wanted) == expected
        assert Evaluator.compute_image_metrics(made, tuple(torch.split(wanted, 2))) == expected

    def test_may_be_single_samples(self) -> None:
        made, wanted = torch.rand(2, 5, 3, 12, 12)
        expected = Evaluator.compute_image_metrics(made, wanted)
        assert Evaluator.compute_image_metrics(list(made), list(wanted)) == pytest.approx(expected)

    def test_of_different_shapes_are_refused_beside_one_tensor(self) -> None:
        batches = [torch.randn(2, 3), torch.randn(2, 4)]
        with pytest.raises(
            AESGTrainingError, match=r"batches.*of one shape, got \(2, 3\), \(2, 4\)"
        ):
            Evaluator.compute_classification_metrics(batches, torch.zeros(4).long())

    def test_of_different_numbers_are_refused(self) -> None:
        logits = torch.randn(4, 3)
        with pytest.raises(AESGTrainingError, match="as many as there are targets, 1, got 2"):
            Evaluator.compute_classification_metrics([logits, logits], [torch.zeros(4).long()])

    def test_may_be_arrays(self) -> None:
        logits, targets = torch.randn(10, 3), torch.randint(0, 3, (10,))
        found = Evaluator.compute_classification_metrics(
            [each.numpy() for each in torch.split(logits, 4)],
            [each.numpy() for each in torch.split(targets, 4)],
        )
        assert found == Evaluator.compute_classification_metrics(logits, targets)

    def test_may_be_samples_beside_one_tensor(self) -> None:
        made, wanted = torch.rand(2, 5, 3, 12, 12)
        found = Evaluator.compute_image_metrics(list(made), wanted)
        assert found == Evaluator.compute_image_metrics(made, wanted)


class TestWithModels:
    def test_what_a_language_model_says_is_judged(self) -> None:
        torch.manual_seed(0)
        model = AESGDecoderLM.sized(12, hidden_size=8, num_layers=1, nhead=1, vector_dim=8)
        tokens = torch.randint(0, 12, (3, 6))
        with torch.no_grad():
            scores = model(tokens)
        found = Evaluator.evaluate(model, scores, tokens)
        assert found["perplexity"] == pytest.approx(
            Evaluator.compute_model_perplexity(scores, tokens)
        )
        assert 1 < found["perplexity"] < 100

    def test_what_an_autoencoder_makes_is_judged(self) -> None:
        model = AESGCNNAutoencoder.sized(base_filters=4, blocks=1, vector_dim=8)
        pictures = torch.rand(2, 3, 8, 8)
        with torch.no_grad():
            made = model(pictures)
        assert 0 < Evaluator.evaluate(model, made, pictures)["psnr"] < 100


def generators() -> list[str]:
    """Return the states of all that random numbers come from."""
    return [
        str(torch.get_rng_state().tolist()),
        str(random.getstate()),
        repr(np.random.get_state()),
    ]


def test_computing_metrics_draws_no_random_numbers() -> None:
    before = generators()
    Evaluator.compute_text_metrics(["a b"], ["a c"])
    Evaluator.compute_image_metrics(torch.ones(1, 4, 4), torch.ones(1, 4, 4))
    Evaluator.compute_classification_metrics(torch.eye(3), torch.tensor([0, 1, 2]))
    assert generators() == before
