"""Finding a prior by name: what is embedded is found, what is not there is one sentence."""

from __future__ import annotations

import pytest

from ambient_solve import load_prior
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
