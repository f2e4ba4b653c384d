"""What a notebook and a terminal show of a prior, a solver and a result: three lines, and pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import (
    AmbientPrior,
    AmbientSolveError,
    DenoiserPrior,
    GaussianPrior,
    MixturePrior,
    NetworkConfig,
    NetworkPrior,
    Prior,
    Restoration,
    Solver,
    as_deepinv,
    operators,
)
from ambient_solve.figures.restoration import columns
from ambient_solve.priors.tiled import TiledPrior

torch.manual_seed(0)
NETWORK = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16), "float32")


class Half(Prior):
    """A user's prior without what `Prior` asks for."""

    def denoise(self, z, sigma, cond=None):
        return z / 2


class Parser(HTMLParser):
    """Tags, the sources of pictures, and the text, of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "data")]

    def handle_data(self, data):
        self.text += data


def restoration(shape=(3, 12, 10), images=2, samples=3, **settings) -> Restoration:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(images, samples, *shape, generator=generator)
    settings = {"algorithm": "mmps", "steps": 25, "operator": "Inpainting", "prior": "NetworkPrior"} | settings
    return Restoration(x, torch.full((images, samples), 0.98), 25, 75, 12.3, {"device": "cpu", **settings})


PRIORS = {
    "network": NETWORK,
    "tiled": TiledPrior(NETWORK, 32, 8),
    "ambient": AmbientPrior(NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16, mask_channels=1)), 0.5),
    "denoiser": DenoiserPrior(as_deepinv(NETWORK)),
    "gaussian": GaussianPrior(torch.zeros(3, 4, 4), torch.eye(48)),
    "mixture": MixturePrior.ring(),
    "bare": Half(),
}


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_says_what_it_is_in_three_lines(name):
    prior = PRIORS[name]
    text = repr(prior)
    assert text.startswith(type(prior).__name__) and len(text.splitlines()) <= 3 and len(text) < 400
    assert max(map(len, text.splitlines())) <= 100


def test_a_prior_says_shape_levels_units_and_size():
    text, number = repr(NETWORK), sum(p.numel() for p in NETWORK.parameters())
    for words in ("3 x any x any", "0.01 to 80", "x = 0.5 z + 0.5", f"{number:,} parameters", "float32", "cpu"):
        assert words in text, text
    assert "NetworkPrior" in repr(PRIORS["tiled"]).split("\n")[0]
    assert "meta" in repr(NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16)).to("meta"))


@pytest.mark.parametrize("make", [lambda r: r, lambda r: summary(r)])
def test_a_result_says_what_it_holds_in_three_lines(make):
    text = repr(make(restoration()))
    assert len(text.splitlines()) <= 3 and max(map(len, text.splitlines())) <= 100
    for words in ("3 samples", "2 pictures", "3 x 12 x 10", "mmps", "25 levels", "0.98", "plot()"):
        assert words in text, text
    assert "tensor" not in text


def summary(r: Restoration):
    from ambient_solve.results import summarize

    return summarize([r], ())


def test_one_sample_is_said_to_show_no_deviation():
    assert "no standard deviation" in repr(restoration(samples=1)) and "nan" not in repr(restoration(samples=1))
    assert "no standard deviation" not in repr(restoration())


def test_a_misfit_far_from_one_is_said():
    r = restoration()
    assert "far from 1" not in repr(r)
    for misfit in (3.0, 0.2):
        assert "far from 1" in repr(dataclasses.replace(r, chi2=r.chi2 * 0 + misfit))


@pytest.mark.parametrize("make", [lambda r: r, lambda r: summary(r)])
def test_a_notebook_shows_pictures_and_nothing_from_outside(make):
    html = make(restoration(operator="<script>alert(1)</script>&"))._repr_html_()
    seen = Parser(html)
    assert "script" not in seen.tags and "img" in seen.tags
    assert all(source.startswith("data:image/png;base64,") for source in seen.sources)
    assert "<script>alert(1)</script>&" in seen.text  # escaped, so it is text
    picture = Image.open(io.BytesIO(base64.b64decode(seen.sources[0].split(",")[1])))
    assert picture.size[0] > 200 and np.asarray(picture).std() > 10


def test_a_result_without_pictures_is_text_in_a_notebook():
    r = restoration(shape=(7,))
    assert Parser(r._repr_html_()).sources == [] and "mmps" in r._repr_html_()
    with pytest.raises(AmbientSolveError, match=r"\(7,\)"):
        r.plot()


def drawn(r, **settings):
    return columns(r.mean, r.std, list(r.samples.unbind(1)), **settings)


def tiles(r, **settings) -> Image.Image:
    sheet = r.plot(**settings)
    assert isinstance(sheet, Image.Image)
    return sheet


@pytest.mark.parametrize(
    "shape", [(1, 12, 10), (2, 12, 10), (3, 12, 10), (5, 12, 10), (1, 4, 12, 10)], ids=lambda s: "x".join(map(str, s))
)
def test_any_picture_is_drawn(shape):
    assert np.asarray(tiles(restoration(shape))).std() > 10


def test_what_is_drawn_is_the_mean_the_deviation_and_the_samples():
    """A red mean, a deviation that lies in the left half alone, and samples that differ there."""
    x = torch.zeros(1, 2, 3, 8, 8)
    x[:, :, 0] = 1
    x[:, 0, 1, :, :4] = 1
    r = dataclasses.replace(restoration(images=1, samples=2), samples=x)
    found = drawn(r)
    assert list(found) == ["mean", "standard deviation", "sample 1", "sample 2"]
    mean, std, first, second = (found[name][0].picture for name in found)
    assert (mean[:, :4] == (255, 128, 0)).all() and (mean[:, 4:] == (255, 0, 0)).all()
    assert std[:, :4].mean() > 2 * std[:, 4:].mean()
    assert (first[:, :4] == (255, 255, 0)).all() and (second == (255, 0, 0)).all()


def test_what_was_measured_and_the_truth_stand_first():
    r = restoration()
    plain, more = tiles(r), tiles(r, measured=torch.rand(2, 1, 6, 5), truth=r.mean)
    assert more.size[0] > plain.size[0] and more.size[1] == plain.size[1]
    assert list(drawn(r, measured=r.mean, truth=r.mean))[:3] == ["measured", "truth", "mean"]
    assert tiles(r, measured=torch.randn(2, 1, 6, 5, dtype=torch.complex64)).size == tiles(r, measured=r.mean).size
    with pytest.raises(AmbientSolveError, match="measured"):
        r.plot(measured=torch.rand(5, 1, 6, 5))
    with pytest.raises(AmbientSolveError, match="measured"):
        r.plot(measured=torch.rand(2, 40))


def test_values_outside_of_pictures_are_scaled_and_those_of_pictures_are_not():
    r = restoration(images=1)
    dark = dataclasses.replace(r, samples=0.1 * r.samples)
    assert drawn(dark)["mean"][0].picture.max() < 40
    wide = dataclasses.replace(r, samples=200 * r.samples - 100)
    assert drawn(wide)["mean"][0].picture.std() > 30


def test_a_few_values_outside_do_not_lift_the_black_of_a_photograph():
    x = torch.zeros(1, 2, 1, 40, 40)
    x[..., 20:, :] = 0.8
    x[..., 0, :4] = -0.3
    found = drawn(dataclasses.replace(restoration(images=1, samples=2), samples=x))
    assert found["mean"][0].picture[10, 10, 0] == 0 and found["mean"][0].picture[30, 30, 0] == 204


def test_a_large_batch_is_drawn_in_part_and_says_so():
    assert "4 of 9" in Parser(restoration(images=9)._repr_html_()).text
    assert tiles(restoration(images=9)).size == tiles(restoration(images=4)).size


def test_a_solver_and_a_state_are_short_too():
    solver = Solver(NETWORK, "dps", zeta=0.5)
    assert len(repr(solver).splitlines()) <= 3 and "zeta=0.5" in repr(solver) and "NetworkPrior" in repr(solver)
    assert "auto" in repr(Solver(NETWORK)) and "seconds=5" in repr(Solver(NETWORK, seconds=5))
    op = operators.denoise((3, 8, 8), sigma=0.1)
    state = next(Solver(NETWORK, "proximal", steps=2).stream(torch.rand(1, 3, 8, 8), op))
    assert "1 of 2" in repr(state) and len(repr(state).splitlines()) == 1 and "tensor" not in repr(state)
