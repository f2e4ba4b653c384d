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


TOLD = dataclasses.replace(SMALL, planes=1, survival=0.35)


def test_a_network_that_is_told_masks_is_an_ambient_prior(tmp_path):
    NetworkPrior(TOLD).save(tmp_path)
    prior = load_prior(tmp_path)
    assert isinstance(prior, AmbientPrior) and prior.told.config == TOLD
    assert (prior.survival, prior.planes, prior.policy, prior.shape) == (0.35, 1, "fixed", (1, -1, -1))
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())
    z, mask = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    torch.testing.assert_close(prior.denoise(z, 1.0, mask), NetworkPrior.load(tmp_path).denoise(0 * z, 1.0, mask))


def test_a_config_from_before_the_planes_still_loads(tmp_path):
    NetworkPrior(SMALL).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["planes"], config["survival"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(load_prior(tmp_path)) is NetworkPrior and load_prior(tmp_path).config == SMALL


NONSENSE = {
    "no survival": ({"survival": None}, "planes = 1 and survival = None"),
    "no planes": ({"planes": 0}, "does not fit"),
    "neither mask nor picture": ({"planes": 3}, "does not fit"),
    "survival 0": ({"survival": 0}, "survival = 0"),
    "survival above 1": ({"survival": 1.2}, "survival = 1.2"),
    "survival in words": ({"survival": "0.6"}, "survival = '0.6'"),
    "survival true": ({"survival": True}, "survival = True"),
    "survival no number": ({"survival": float("nan")}, "survival = nan"),
    "planes in words": ({"planes": "one"}, "planes = 'one'"),
    "planes negative": ({"planes": -1}, "planes = -1"),
    "planes broken": ({"planes": 1.0}, "planes = 1.0"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_about_what_it_is_told_is_refused(tmp_path, case):
    change, expected = NONSENSE[case]
    NetworkPrior(TOLD).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AmbientSolveError, match=expected) as error:
        load_prior(tmp_path)
    assert one_sentence(str(error.value).replace(str(tmp_path), "FOLDER"))


@pytest.mark.parametrize(("planes", "survival"), [(2, 0.5), (0, 0.5), (2, None)])
def test_planes_that_are_no_mask_are_refused(tmp_path, planes, survival):
    """Such as the measurement and the mask of a conditional network."""
    NetworkPrior(dataclasses.replace(SMALL, planes=planes, survival=survival)).save(tmp_path)
    with pytest.raises(AmbientSolveError, match=f"planes ?= ?{planes}") as error:
        load_prior(tmp_path)
    assert one_sentence(str(error.value).replace(str(tmp_path), "FOLDER"))
    assert NetworkPrior.load(tmp_path).config.planes == planes
