"""Metrics against closed forms; each with a plausible wrong version that the same numbers reject."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.calibration import variance_ratio
from ambient_solve.evaluate.metrics import Metrics, psnr, variance_and_error
from helpers import one_sentence, rand, randn

ALEXNET = Path(__file__).parents[3] / "shared" / "data" / "weights" / "alexnet_features_fp16.safetensors"


def test_psnr_of_a_constant_error():
    x = rand(3, 8, 9)
    assert abs(psnr(x + 0.1, x) - 20) < 1e-4
    assert abs(psnr(x + 0.1, x, peak=2.0) - 20 - 20 * math.log10(2)) < 1e-4
    half = x.clone()
    half[:, :, ::2] += 0.1  # 5 of 9 columns
    assert abs(psnr(half, x) - 20 - 10 * math.log10(9 / 5)) < 1e-4
    assert abs(psnr(half, x) - 20) > 2  # control: the largest error in place of the mean
    assert psnr(x, x) == math.inf
    with pytest.raises(AmbientSolveError) as error:
        psnr(x, x[:1])
    assert one_sentence(error)


def test_the_metrics_of_constant_pictures():
    """SSIM of constants a, b is (2 a b + c) / (a^2 + b^2 + c) with c = (.01 * range)^2: nothing varies in a window."""
    a, b = 0.3, 0.6
    found = Metrics()(torch.full((3, 12, 12), a), torch.full((3, 12, 12), b))
    wanted = [(2 * a * b + c) / (a**2 + b**2 + c) for c in (1e-4, 4e-4)]
    assert set(found) == {"psnr", "ssim"} and abs(found["psnr"] + 20 * math.log10(0.3)) < 1e-4
    assert abs(found["ssim"] - wanted[0]) < 2e-6
    assert abs(found["ssim"] - wanted[1]) > 4e-5  # control: the range of [-1, 1] pictures


def test_what_lies_outside_the_range_is_clipped():
    """As a picture file would; the truth is not touched."""
    truth = torch.ones(1, 9, 9)
    assert Metrics()(truth + 0.5, truth)["psnr"] == math.inf
    assert abs(psnr(truth + 0.5, truth) - 20 * math.log10(2)) < 1e-4  # control: not clipped
    assert abs(Metrics()(truth - 1.5, truth)["psnr"]) < 1e-5  # an error of 1, not of 1.5


def test_pictures_that_cannot_be_compared_are_refused():
    for x, truth in ((rand(3, 6, 9), rand(3, 6, 9)), (rand(2, 9, 9), rand(2, 9, 9)), (rand(3, 9, 9), rand(1, 9, 9))):
        with pytest.raises(AmbientSolveError, match="at least 7") as error:
            Metrics()(x, truth)
        assert one_sentence(error)


def test_variance_and_error_have_no_bias_in_the_number_of_samples():
    """Samples N(0, 4) about a mean that errs by 1: V = 4, B = 1, with two samples as with many."""
    for S in (2, 16):
        truth, samples = torch.ones(40_000), 2 * randn(S, 40_000)
        V, B = variance_and_error(samples, truth)
        assert abs(V - 4) < 0.15 and abs(B - 1) < 0.15
        assert abs(V / B - variance_ratio(samples[None], truth[None])) < 1e-9
        naive = float((samples.mean(0) - truth).square().mean())
        assert abs(naive - 1 - 4 / S) < 0.1  # control: the error of the mean of S samples


@pytest.mark.skipif(not ALEXNET.is_file(), reason="the AlexNet features are not at hand")
def test_lpips_tells_how_much_was_changed():
    pytest.importorskip("lpips")
    metrics, x = Metrics(ALEXNET), torch.nn.functional.interpolate(rand(1, 3, 8, 8), scale_factor=8, mode="bicubic")[0]
    x = x.clamp(0, 1)
    same, little, much = (metrics(x + s * randn(3, 64, 64), x)["lpips"] for s in (0.0, 0.05, 0.2))
    assert abs(same) < 1e-7 and 0.01 < little < 0.7 * much
    # Brightness, which PSNR punishes more than the noise, changes little of what is seen.
    brighter = metrics(0.8 * x + 0.1, x)
    assert brighter["psnr"] < metrics(x + 0.05 * randn(3, 64, 64), x)["psnr"] and brighter["lpips"] < little
    grey = x[:1], x[:1] ** 2
    assert metrics(*grey)["lpips"] == pytest.approx(metrics(*(g.expand(3, -1, -1) for g in grey))["lpips"], abs=1e-6)
    with pytest.raises(AmbientSolveError, match="at least 31"):
        metrics(x[:, :30], x[:, :30])


def test_features_that_are_none_are_refused(tmp_path):
    pytest.importorskip("lpips")
    from safetensors.torch import save_file

    save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("nothing")
    for name in ("other.safetensors", "text.safetensors", "gone.safetensors"):
        with pytest.raises(AmbientSolveError, match="does not hold the convolutions") as error:
            Metrics(tmp_path / name)
        assert one_sentence(error)
