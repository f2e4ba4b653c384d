"""Which priors a visitor may choose, and that a recipe says which one it was."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ambient_solve.app.photographs import choices, estimates, events, many
from ambient_solve.app.photographs.session import recipe_of
from ambient_solve.app.rules import Rules
from ambient_solve.app.scans import choices as scan_choices
from ambient_solve.app.scans.values import ScanControls
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors import load
from ambient_solve.priors.load import embedded_priors, pinned, prior_folder
from attacks import BASE, png, web
from test_app_events import merged, values

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def send_restore(server, prior: str) -> str:
    """What the stream says when the private event of the button Restore is sent with this prior."""
    model = [fn for fn in server.page.fns.values() if fn.concurrency_id == "model"]
    (fn,) = [fn for fn in model if any(block.elem_id == "history" for block in fn.outputs)]
    props = {c["id"]: c["props"] for c in server.page.config["components"]}
    data = [None if b.get_block_name() == "state" else props[b._id].get("value") for b in fn.inputs]
    place = next(n for n, b in enumerate(fn.inputs) if b.elem_id == "prior")
    data[place], session = prior, uuid.uuid4().hex
    with web(server) as client:
        body = {"data": data, "fn_index": fn._id, "session_hash": session, "trigger_id": None}
        assert client.post(f"{BASE}/queue/join", json=body).status_code == 200
        with client.stream("GET", f"{BASE}/queue/data", params={"session_hash": session}) as stream:
            said = ""
            for line in stream.iter_lines():
                said += line
                if "process_completed" in line:
                    return said
    return said


def test_the_private_event_takes_no_prior_that_was_not_offered(server, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(load, "_from_hub", lambda *name: asked.append(name) or tmp_path)
    (tmp_path / "there").mkdir()
    words = set()
    for prior in (str(tmp_path / "there"), str(tmp_path / "gone"), "/etc", "somebody/something", "../.."):
        said = send_restore(server, prior)
        assert '"success":false' in said.replace(" ", "")
        words.add(
            said.split("process_completed")[-1].split('"error"')[-1].split('"duration"')[0].replace(prior, "PRIOR")
        )
    assert asked == [] and len(words) == 1, "nobody learns what there is on this machine, and nothing is fetched"


def test_no_event_takes_a_prior_that_was_not_offered(prior_folder, tmp_path):
    pytest.importorskip("gradio")
    (tmp_path / "old.png").write_bytes(png())
    given = values(tmp_path / "old.png", prior_folder)
    session = merged(events.upload(given))["session"]
    given = replace(given, session=session)
    merged(events.restore(replace(given, samples=1)))
    wrong = replace(given, prior=str(tmp_path))
    scan = ScanControls(method="prior", prior=wrong.prior, rules=wrong.rules)
    starts = {
        "offers": lambda: choices.offers(wrong),
        "prior": lambda: choices.take_prior(wrong),
        "upload": lambda: list(events.upload(wrong)),
        "estimate": lambda: estimates.estimate(wrong),
        "restore": lambda: list(events.restore(wrong)),
        "recall": lambda: events.recall(wrong, 0),
        "many": lambda: list(many.restore_many(replace(wrong, many=[str(tmp_path / "old.png")]))),
        "scan": lambda: scan_choices.chosen_prior(scan),
    }
    for name, start in starts.items():
        with pytest.raises(AmbientSolveError, match="not offered here"):
            start()
            pytest.fail(name)
    session.close()


def test_rules_offer_what_was_named_and_what_is_embedded(tmp_path):
    rules = Rules(("mine", "owner/name"))
    for name in ("mine", "owner/name", *embedded_priors()):
        rules.check_prior(name)
    assert rules.offered()[:2] == ["mine", "owner/name"] and set(embedded_priors()) <= set(rules.offered())
    said = set()
    for name in ("other", "owner/other", str(tmp_path), "/etc/passwd"):
        with pytest.raises(AmbientSolveError, match="--more-priors") as error:
            rules.check_prior(name)
        said.add(str(error.value))
        Rules(any_prior=True).check_prior(name)  # control
    assert len(said) == 1, "the same words, whether it is there or not"


def test_a_hub_id_may_name_its_revision(tmp_path, monkeypatch):
    fetched = []

    def snapshot_download(repo, *, revision=None, allow_patterns=None, local_files_only=False):
        fetched.append((repo, revision, local_files_only))
        return str(tmp_path / "snapshots" / (revision or COMMIT))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert prior_folder("owner/name@v1") == tmp_path / "snapshots" / "v1"
    assert prior_folder("owner/name") == tmp_path / "snapshots" / COMMIT
    assert fetched == [("owner/name", "v1", False), ("owner/name", None, False)]
    fetched.clear()
    assert pinned("owner/name") == f"owner/name@{COMMIT}" and fetched == [("owner/name", None, True)]
    assert pinned("owner/name@v1") == "owner/name@v1"
    for plain in (str(tmp_path), *embedded_priors(), "./a/b"):
        assert pinned(plain) == plain
    request = SimpleNamespace(prior="owner/name", task="denoise", options={"sigma": 0.1}, kernel=None)
    request.algorithm, request.knobs, request.samples, request.seed = "proximal", {}, 1, 0
    request.prompt, request.negative, request.guidance = "", "", 1.0
    request.painted = request.mask = None
    problem = SimpleNamespace(request=request, mask=None, picture=SimpleNamespace(path=Path("a.png")))
    recipe = recipe_of(SimpleNamespace(problem=problem))
    assert recipe.prior == f"owner/name@{COMMIT}"


def test_a_hub_id_that_was_never_loaded_stays_as_it_is(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def missing(*_, **__):
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", missing)
    assert pinned("owner/name") == "owner/name"
