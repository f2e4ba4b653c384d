"""The rows of what users tried: damaged files, restored by their path, and a large picture as the page has it."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("gradio", reason="a row is of the page: pip install 'ambient-solve[app]'")

import tried
from test_app import tiny


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tried, "load_prior", lambda name: tiny())
    monkeypatch.setattr(tried, "LARGE", (640, 530))


def test_the_noise_of_a_file_is_found_without_a_network(tmp_path):
    for _, seen in tried.grain(tmp_path):
        pairs = re.findall(r"([\d.]+) as ([\d.]+)", seen)
        assert len(pairs) == 3 and all(abs(float(found) / float(true) - 1) < 0.25 for true, found in pairs)


def test_a_large_picture_has_a_price_progress_and_an_end(tmp_path):
    (_, price), (_, times) = tried.large(tmp_path)
    assert "takes about" in price and "GB of memory" in price
    seconds = [float(one) for one in re.findall(r"([\d.]+) s", times)]
    assert len(seconds) == 3 and seconds[0] <= seconds[1]


def test_a_file_that_is_restored_is_damaged_as_stated(tmp_path):
    x = tried.photograph("coffee", 64, tried.BORDER)
    y = tried.blurred(x, "motion-blur", 0.0, length=9.0, angle=30.0)
    op = tried.make_task("motion-blur", length=9.0, angle=30.0).operator(tried.read_measurement(
        tried.save(y, tmp_path / "y.png")
    ))  # fmt: skip
    reach = [(n - m) // 2 for n, m in zip(op.img_size[-2:], y.shape[-2:], strict=True)]
    rows, columns = (slice(tried.BORDER - r, -(tried.BORDER - r)) for r in reach)
    assert torch.allclose(op.A(x[None, :, rows, columns])[0], y, atol=1e-5)
    assert not torch.allclose(x[:, tried.BORDER : -tried.BORDER, tried.BORDER : -tried.BORDER], y, atol=0.05)
