"""Whether a request was finished before: the record, written last, of the same request."""

from __future__ import annotations

import hashlib
import json

import pytest

from ambient_solve.errors import AmbientSolveError
from ambient_solve.resume import digest, finished, read_record, remember
from helpers import one_sentence

REQUEST = {"sizes": (1, 2), "seed": 3}


def test_the_same_request_was_finished_and_another_was_not(tmp_path):
    assert finished(tmp_path, REQUEST) is None and read_record(tmp_path) == {}
    record = {"request": REQUEST, "chi2": 1.0}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    assert finished(tmp_path, REQUEST)["chi2"] == 1.0  # a tuple comes back as a list, and is the same
    assert finished(tmp_path, {**REQUEST, "seed": 4}) is None
    assert read_record(tmp_path)["chi2"] == 1.0


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"chi2": 1.0}'])
def test_a_record_that_is_not_whole_is_none(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    assert finished(tmp_path, REQUEST) is None


def test_a_digest_is_of_the_parts_one_after_another():
    assert digest(b"ab", b"c") == digest(b"abc") == hashlib.sha256(b"abc").hexdigest()[:16]
    assert digest(b"abc") != digest(b"abd")


def test_unfinished_data_go_on_with_the_same_settings_alone(tmp_path):
    path = tmp_path / "run.json"
    remember(path, {"seed": 0}, begun=False)
    remember(path, {"seed": 0}, begun=True)
    remember(path, {"seed": 1}, begun=False)  # nothing was made yet
    with pytest.raises(AmbientSolveError, match="other settings") as error:
        remember(path, {"seed": 0}, begun=True)
    assert one_sentence(error) and json.loads(path.read_text()) == {"seed": 1}
