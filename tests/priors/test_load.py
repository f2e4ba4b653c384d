"""Finding a prior by name, and what it is: what is not there, or makes no sense, is one sentence."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from ambient_solve import AmbientPrior, load_prior
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors import load
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import one_sentence

SMALL = NetworkConfig(channels=1, widths=(8,), embedding=8)


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_an_installation_without_embedded_priors_says_so(tmp_path, monkeypatch, folder):
    (tmp_path / "empty" / "unfinished").mkdir(parents=True)
    monkeypatch.setattr(load, "EMBEDDED", tmp_path / folder)
    assert load.embedded_priors() == []
    with pytest.raises(AmbientSolveError, match="'photso'.*No prior is embedded") as error:
        load_prior("photso")
    assert one_sentence(error) and "Known: ." not in str(error.value)


def test_an_embedded_prior_is_found_and_suggested(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "EMBEDDED", tmp_path)
    NetworkPrior(SMALL).save(tmp_path / "photos")
    assert load.embedded_priors() == ["photos"] and load_prior("photos").config == SMALL
    assert load_prior(tmp_path / "photos").config == SMALL
    with pytest.raises(AmbientSolveError, match="Did you mean 'photos'. Known: photos") as error:
        load_prior("photso")
    assert one_sentence(error)


CONDITIONED = dataclasses.replace(SMALL, mask_channels=1, keep_probability=0.35)


def test_a_mask_conditioned_network_is_an_ambient_prior(tmp_path):
    NetworkPrior(CONDITIONED).save(tmp_path)
    prior = load_prior(tmp_path)
    assert isinstance(prior, AmbientPrior) and prior.inner.config == CONDITIONED
    assert (prior.keep_probability, prior.mask_channels, prior.policy, prior.shape) == (0.35, 1, "fixed", (1, -1, -1))
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())
    z, mask = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    torch.testing.assert_close(prior.denoise(z, 1.0, mask), NetworkPrior.load(tmp_path).denoise(0 * z, 1.0, mask))


def test_a_config_without_mask_channels_loads(tmp_path):
    NetworkPrior(SMALL).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["mask_channels"], config["keep_probability"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(load_prior(tmp_path)) is NetworkPrior and load_prior(tmp_path).config == SMALL


NONSENSE = {
    "no keep_probability": ({"keep_probability": None}, "mask_channels = 1 and keep_probability = None"),
    "no mask_channels": ({"mask_channels": 0}, "does not fit"),
    "neither mask nor picture": ({"mask_channels": 3}, "does not fit"),
    "keep_probability 0": ({"keep_probability": 0}, "keep_probability = 0"),
    "keep_probability above 1": ({"keep_probability": 1.2}, "keep_probability = 1.2"),
    "keep_probability in words": ({"keep_probability": "0.6"}, "keep_probability = '0.6'"),
    "keep_probability true": ({"keep_probability": True}, "keep_probability = True"),
    "keep_probability no number": ({"keep_probability": float("nan")}, "keep_probability = nan"),
    "mask_channels in words": ({"mask_channels": "one"}, "mask_channels = 'one'"),
    "mask_channels negative": ({"mask_channels": -1}, "mask_channels = -1"),
    "mask_channels broken": ({"mask_channels": 1.0}, "mask_channels = 1.0"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_about_its_condition_is_refused(tmp_path, case):
    change, expected = NONSENSE[case]
    NetworkPrior(CONDITIONED).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AmbientSolveError, match=expected) as error:
        load_prior(tmp_path)
    assert one_sentence(str(error.value).replace(str(tmp_path), "FOLDER"))


@pytest.mark.parametrize(("mask_channels", "keep_probability"), [(2, 0.5), (0, 0.5), (2, None)])
def test_mask_channels_without_a_mask_of_pixels_are_refused(tmp_path, mask_channels, keep_probability):
    """Such as the measurement and the mask of a conditional network."""
    NetworkPrior(dataclasses.replace(SMALL, mask_channels=mask_channels, keep_probability=keep_probability)).save(
        tmp_path
    )
    with pytest.raises(AmbientSolveError, match=f"mask_channels ?= ?{mask_channels}") as error:
        load_prior(tmp_path)
    assert one_sentence(str(error.value).replace(str(tmp_path), "FOLDER"))
    assert NetworkPrior.load(tmp_path).config.mask_channels == mask_channels
