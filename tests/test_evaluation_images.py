"""PSNR, SSIM, squared and absolute error, against scikit-image."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import (
    mean_squared_error,
    peak_signal_noise_ratio,
    structural_similarity,
)

from aesg import AESGTrainingError
from aesg.evaluation import DomainMetrics, Evaluator

NAMES = {"psnr", "ssim", "mse", "mae"}


def pictures(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smooth images, and the same ones with noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(*shape[:-2], 4, 4, generator=generator)
    targets = torch.nn.functional.interpolate(
        coarse.reshape(-1, 1, 4, 4), size=shape[-2:], mode="bilinear"
    ).reshape(shape)
    noise = 0.1 * torch.randn(*shape, generator=generator)
    return (targets + noise).clamp(0, 1), targets


def images(predictions: Any, targets: Any, **options: Any) -> dict[str, float]:
    return Evaluator.compute_image_metrics(predictions, targets, **options)


def similarity_of(made: torch.Tensor, wanted: torch.Tensor, sigma: float = 1.5) -> float:
    """Return the mean SSIM of images, by scikit-image."""
    return float(
        np.mean(
            [
                structural_similarity(  # type: ignore[no-untyped-call]
                    some.double().numpy(),
                    of.double().numpy(),
                    channel_axis=0,
                    data_range=1.0,
                    gaussian_weights=True,
                    sigma=sigma,
                    use_sample_covariance=False,
                )
                for some, of in zip(made, wanted, strict=True)
            ]
        )
    )


class TestAgainstScikitImage:
    def test_every_metric_is_the_same(self) -> None:
        made, wanted = pictures(3, 3, 24, 31)
        found = images(made, wanted)
        assert found["psnr"] == pytest.approx(
            peak_signal_noise_ratio(  # type: ignore[no-untyped-call]
                wanted.numpy(), made.numpy(), data_range=1.0
            ),
            abs=1e-4,
        )
        assert found["mse"] == pytest.approx(mean_squared_error(wanted.numpy(), made.numpy()))
        assert found["mae"] == pytest.approx(float((made - wanted).abs().mean()))
        assert 0.2 < found["ssim"] < 0.99
        assert found["ssim"] == pytest.approx(similarity_of(made, wanted), abs=1e-5)

    @pytest.mark.parametrize(("side", "radius"), [(11, 5), (10, 4), (8, 3), (4, 1)])
    def test_the_window_of_small_images_fits_into_them(self, side: int, radius: int) -> None:
        made, wanted = pictures(2, 1, side, side + 5)
        sigma = 1.5 if radius == 5 else radius / 3.5
        expected = similarity_of(made, wanted, sigma)
        assert images(made, wanted)["ssim"] == pytest.approx(expected, abs=1e-5)


class TestShapes:
    @pytest.mark.parametrize("shape", [(1, 1), (2, 9), (1, 7, 7), (3, 1, 1), (2, 3, 2, 2)])
    def test_of_any_size_are_compared(self, shape: tuple[int, ...]) -> None:
        made, wanted = pictures(*shape)
        assert all(math.isfinite(each) for each in images(made, wanted).values())
        assert images(wanted, wanted)["ssim"] == pytest.approx(1)

    def test_a_single_image_is_a_batch_of_one(self) -> None:
        made, wanted = pictures(3, 12, 12)
        assert images(made, wanted) == images(made[None], wanted[None])

    @pytest.mark.parametrize("shape", [(2, 8, 4, 4), (5, 16, 1, 1), (31, 12, 14), (3, 12, 4)])
    def test_may_have_any_number_of_channels(self, shape: tuple[int, ...]) -> None:
        made, wanted = pictures(*shape)
        assert 0 < images(made, wanted)["psnr"] < 100

    def test_views_that_are_not_contiguous_are_compared(self) -> None:
        made, wanted = pictures(2, 3, 12, 14)
        expected = images(made, wanted)
        swapped = made.transpose(2, 3).contiguous().transpose(2, 3)
        assert images(swapped, wanted) == pytest.approx(expected)


class TestEqualImages:
    def test_have_a_finite_psnr(self) -> None:
        _, wanted = pictures(2, 3, 16, 16)
        found = images(wanted, wanted)
        assert found == pytest.approx({"psnr": 100, "ssim": 1, "mse": 0, "mae": 0})
        assert json.loads(json.dumps(found, allow_nan=False)) == found

    def test_are_no_worse_than_any_others(self) -> None:
        wanted = torch.full((1, 1, 16, 16), 0.5)
        assert images(wanted + 1e-7, wanted)["psnr"] == 100
        assert images(wanted + 1e-4, wanted)["psnr"] == pytest.approx(80, abs=0.01)


class TestRange:
    def test_of_bytes_is_255(self) -> None:
        made, wanted = (torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8) for _ in "ab")
        expected = images(made.float() / 255, wanted.float() / 255)
        assert images(made, wanted) == pytest.approx(expected)
        assert images(made.float() / 255, wanted) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("data_range", "low", "high"), [(255, 0, 255), ((-1, 1), -1, 1), ((2.0, 4.0), 2, 4)]
    )
    def test_may_be_said(self, data_range: Any, low: float, high: float) -> None:
        made, wanted = pictures(2, 3, 16, 16)
        stretched = (each * (high - low) + low for each in (made, wanted))
        found = images(*stretched, data_range=data_range)
        assert found == pytest.approx(images(made, wanted), abs=1e-4)

    def test_of_predictions_may_be_left(self) -> None:
        _, wanted = pictures(1, 1, 16, 16)
        assert images(wanted + 2, wanted)["mse"] == pytest.approx(4, rel=1e-5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_every_floating_type_is_taken(self, dtype: torch.dtype) -> None:
        made, wanted = pictures(2, 3, 16, 16)
        found = images(made.to(dtype).requires_grad_(), wanted)
        assert found == pytest.approx(images(made, wanted), rel=0.02)

    def test_autocast_changes_nothing(self) -> None:
        made, wanted = pictures(2, 3, 16, 16)
        with torch.autocast("cpu", torch.bfloat16):
            found = images(made, wanted)
        assert found == images(made, wanted)

    def test_of_predictions_beside_bytes_may_be_left_a_little(self) -> None:
        wanted = torch.randint(0, 256, (1, 16, 16), dtype=torch.uint8)
        found = images(wanted / 255 + 0.5, wanted)
        assert found["mse"] == pytest.approx(0.25, rel=1e-4)

    def test_arrays_are_taken(self) -> None:
        made, wanted = pictures(2, 3, 16, 16)
        assert images(made.numpy(), wanted.numpy()) == images(made, wanted)

    def test_arrays_that_are_read_only_or_turned_round_are_taken(self) -> None:
        made, wanted = (each.numpy() for each in pictures(2, 3, 16, 16))
        made.flags.writeable = False
        expected = images(made.copy(), wanted)
        assert images(made, wanted) == expected
        assert images(made[::-1], wanted[::-1].copy()) == pytest.approx(expected)


class TestBatches:
    def test_give_what_all_at_once_give(self) -> None:
        made, wanted = pictures(5, 3, 16, 16)
        metrics = DomainMetrics("image")
        for batch in ([0, 1], [2, 3], [4]):
            metrics.update(made[batch], wanted[batch])
        assert metrics.compute() == pytest.approx(images(made, wanted), rel=1e-5)

    def test_are_cut_to_what_fits_into_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, wanted = pictures(5, 3, 16, 16)
        expected = images(made, wanted)
        monkeypatch.setattr("aesg.evaluation.images._AT_ONCE", 2 * 3 * 16 * 16)
        assert images(made, wanted) == pytest.approx(expected, rel=1e-5)
        monkeypatch.setattr("aesg.evaluation.images._AT_ONCE", 1)
        assert images(made, wanted) == pytest.approx(expected, rel=1e-5)

    def test_may_have_images_of_different_sizes(self) -> None:
        large, small = pictures(2, 3, 20, 20), pictures(1, 3, 12, 9)
        metrics = DomainMetrics("image")
        metrics.update(*large)
        metrics.update(*small)
        one, other = images(*large), images(*small)
        values = [2 * 3 * 20 * 20, 3 * 12 * 9]
        found = metrics.compute()
        assert found["ssim"] == pytest.approx((2 * one["ssim"] + other["ssim"]) / 3)
        assert found["mse"] == pytest.approx(np.average([one["mse"], other["mse"]], weights=values))

    def test_have_no_metrics_before_the_first(self) -> None:
        found = DomainMetrics("image").compute()
        assert set(found) == NAMES
        assert all(math.isnan(each) for each in found.values())


class TestRefused:
    @pytest.mark.parametrize(
        ("predictions", "targets", "message"),
        [
            (torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 9), r"\(2, 3, 8, 9\), got \(2, 3, 8, 8\)"),
            (torch.rand(2, 3, 8, 8), torch.rand(3, 3, 8, 8), r"\(3, 3, 8, 8\), got \(2, 3, 8, 8\)"),
            (torch.rand(0, 3, 8, 8), torch.rand(0, 3, 8, 8), "at least 1 element"),
            (torch.rand(8), torch.rand(8), r"images \(B, C, H, W\).*got shape \(8,\)"),
            (torch.rand(2, 8, 8, 3), torch.rand(2, 8, 8, 3), "channels before height and width"),
            (torch.rand(2, 8, 3), torch.rand(2, 8, 3), r"movedim\(-1, -3\)"),
            (torch.rand(64, 48, 1), torch.rand(64, 48, 1), "channels before height and width"),
            (
                255 * torch.rand(1, 8, 8),
                torch.full((1, 8, 8), 9, dtype=torch.uint8),
                r"values near \[0, 1\], got .* always in \[0, 255\]",
            ),
            (
                torch.full((1, 8, 8), 1e30),
                torch.rand(1, 8, 8),
                r"predictions: .* \[1e\+30, 1e\+30\]",
            ),
            (torch.rand(1, 8, 8).to_sparse(), torch.rand(1, 8, 8), "expected a dense tensor"),
            (torch.full((1, 8, 8), math.nan), torch.rand(1, 8, 8), "predictions: expected finite"),
            (torch.rand(1, 8, 8), torch.full((1, 8, 8), math.inf), "targets: expected finite"),
            (torch.rand(1, 8, 8), torch.full((1, 8, 8), 3.0), r"values in \[0, 1\], got \[3, 3\]"),
            (torch.rand(1, 8, 8), torch.full((1, 8, 8), -1.0), r"values in \[0, 1\], got \[-1,"),
            (torch.ones(1, 8, 8).long(), torch.rand(1, 8, 8), "floating or uint8 images, got"),
            (torch.ones(1, 8, 8, dtype=torch.cfloat), torch.rand(1, 8, 8), "expected real"),
            ("image.png", torch.rand(1, 8, 8), "predictions: expected a tensor, got str"),
            (None, None, "predictions: expected a tensor, got NoneType"),
        ],
    )
    def test_images_that_cannot_be_compared(
        self, predictions: Any, targets: Any, message: str
    ) -> None:
        with pytest.raises(AESGTrainingError, match=message):
            images(predictions, targets)

    @pytest.mark.parametrize("data_range", [0, -1, math.nan, math.inf, (1, 0), (1,), "wide", None])
    def test_what_is_no_range(self, data_range: Any) -> None:
        with pytest.raises(AESGTrainingError, match="data_range: expected a finite number > 0"):
            images(torch.rand(1, 8, 8), torch.rand(1, 8, 8), data_range=data_range)
