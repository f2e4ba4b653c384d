"""Words on the page: shown where the prior takes them, limited, escaped, recorded, and left out everywhere else."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
pytest.importorskip("transformers", reason="text encoders need transformers: pip install 'ambient-solve[latent]'")

from ambient_solve import AmbientSolveError, Prompt, load_prior
from ambient_solve.app import wiring
from ambient_solve.app.photographs import api, choices, events, many, prompts
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.rules import Rules
from ambient_solve.app.work import asked
from ambient_solve.restore.files import restore_file
from ambient_solve.restore.recipe import MAX_PROMPT, Recipe, cli_command, from_json, read_png, to_json
from ambient_solve.restore.tasks import make_task
from helpers import one_sentence
from pipelines import dit, stable_diffusion
from test_app_events import merged, values

SIDE = 16
LATINO = {"algorithm": "latino", "knobs": {"steps": 2}, "samples": 1}
WORDS = {"prompt": "a q", "negative": "b", "guidance": 20.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """A pipeline of words and one of classes."""
    root = tmp_path_factory.mktemp("pipelines")
    return {"words": str(stable_diffusion(root / "words")), "classes": str(dit(root / "classes"))}


@pytest.fixture
def picture(tmp_path) -> Path:
    array = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "old.png")
    return tmp_path / "old.png"


def uploaded(picture: Path, prior: str, **changes):
    given = values(picture, prior, **changes)
    return replace(given, session=merged(events.upload(given))["session"])


def test_the_field_is_there_where_the_prior_takes_words_and_only_there(folders, prior_folder):
    standing = {"algorithm": "proximal", "knobs": {"steps": 3}}
    seen = {name: choices.take_prior(values(None, folder, **standing)) for name, folder in folders.items()}
    pixels = choices.take_prior(values(None, prior_folder, **standing))
    assert [seen["words"]["at_prompt"]["visible"], seen["classes"]["at_prompt"]["visible"]] == [True, False]
    assert pixels["at_prompt"]["visible"] is False and "algorithm" not in pixels, "what works is left as it is"
    assert (seen["words"]["algorithm"], seen["words"]["knobs"]) == ("auto", {}), "proximal needs a prior of pixels"
    kept = choices.take_prior(values(None, folders["words"], algorithm="latino"))
    assert "algorithm" not in kept
    first = choices.offers(values(None, folders["words"], **standing))
    assert first["at_prompt"]["visible"] is True and first["algorithm"]["value"] == "auto"
    assert "value" not in choices.offers(values(None, prior_folder, **standing))["algorithm"]
    for name, folder, algorithm in (("words", folders["words"], "auto"), ("pixels", prior_folder, "proximal")):
        lit = values(None, folder, task="gaussian-blur", preset="Fast")
        assert choices.take_preset(lit)["algorithm"] == choices.take_task(lit)["algorithm"] == algorithm, name


def test_the_page_is_laid_out_without_the_field_and_with_its_limit(prior_folder):
    from ambient_solve.app.page import build_page

    blocks = build_page(prior_folder, "cpu").blocks.values()
    named = {b.elem_id: b for b in blocks if b.elem_id in prompts.NAMES}
    assert named["prompt"].max_length == named["negative"].max_length == MAX_PROMPT and len(named) == 3
    hidden = [b for b in blocks if b.get_block_name() == "group" and not b.visible]
    inside = [g for g in hidden if {getattr(c, "elem_id", None) for c in descendants(g)} >= set(prompts.NAMES)]
    assert len(inside) == 1


def descendants(block) -> list:
    own = list(getattr(block, "children", []))
    return own + [below for child in own for below in descendants(child)]


def test_the_prompt_decides_the_picture_and_is_recorded_as_the_command_does_it(folders, picture, tmp_path):
    given = uploaded(picture, folders["words"], **LATINO, **WORDS)
    session = given.session
    seen = merged(events.restore(given))
    made = np.asarray(Image.open(seen["download"]["value"]))
    out = tmp_path / "command"
    method = {"algorithm": "latino", "options": {"steps": 2}, "n_samples": 1, "seed": 3}
    want = restore_file(
        picture, load_prior(folders["words"]), make_task("denoise", sigma=0.1), cond=Prompt(**as_prompt()), out=out,
        **method,
    )  # fmt: skip
    assert (made == np.asarray(Image.open(out / "mean.png"))).all() and want.restoration is not None
    recorded = json.loads((out / "settings.json").read_text())["request"]["cond"]
    assert seen["details"]["cond"] == recorded == as_prompt()
    with zipfile.ZipFile(seen["archive"]["value"]) as archive:
        assert json.loads(archive.read("settings.json"))["cond"] == recorded
    recipe = read_png(seen["download"]["value"])
    assert {name: getattr(recipe, name) for name in WORDS} == WORDS
    scope: dict = {}
    exec(seen["python"].replace("'old.png'", repr(str(picture))).replace("restored/old", f"{tmp_path}/again"), scope)
    assert (np.asarray(Image.open(tmp_path / "again" / "mean.png")) == made).all()
    assert "--prompt 'a q' --prompt-guidance 20.0 --negative b" in seen["shell"]
    plain = merged(events.restore(replace(given, prompt="  ")))
    assert (np.asarray(Image.open(plain["download"]["value"])) != made).any(), "control: without words"
    assert "cond" not in plain["details"] and "--prompt" not in plain["shell"] and "Prompt" not in plain["python"]
    # Both runs are remembered, and the file brings the words back.
    assert [events.recall(given, i)["prompt"] for i in (0, 1)] == ["  ", "a q"]
    again = merged(events.upload(values(Path(out / "mean.png"), folders["words"])))
    assert "prompt" not in again, "what the command writes is no recipe of the page"
    handed = merged(events.restore(given))["download"]["value"]
    again = merged(events.upload(values(Path(handed), folders["words"])))
    assert {name: again[name] for name in WORDS} == WORDS
    session.close()


def as_prompt() -> dict:
    return {"text": WORDS["prompt"], "negative": WORDS["negative"], "guidance": WORDS["guidance"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"prompt": "a" + " b" * 80}, "text encoder takes 77: shorten it"),
        ({"prompt": "a", "negative": "b" * (MAX_PROMPT + 1)}, f"the page takes {MAX_PROMPT}: shorten it"),
        ({"prompt": "a \x1b[31m"}, "no text"), ({"prompt": "a <img src=x>"}, "begins no concept"),
        ({"prompt": "a", "guidance": -1.0}, "guidance=-1.0"),
    ],
)  # fmt: skip
def test_words_that_do_not_fit_are_one_sentence_before_the_first_pass(words, said, folders, picture):
    given = uploaded(picture, folders["words"], **LATINO, **words)
    prior = choices.chosen_prior(given)
    whole, calls = prior.denoise, []
    prior.denoise = lambda *args, **kwargs: calls.append(1) or whole(*args, **kwargs)
    seen = []
    with pytest.raises(AmbientSolveError, match=said) as error:
        seen.extend(events.restore(given))
    del prior.denoise
    assert one_sentence(error) and "<img" not in "".join(str(u["status"]) for u in seen) and calls == []
    given.session.close()


def test_an_error_that_quotes_words_is_escaped_on_the_page_alone():
    import gradio as gr

    def wrong() -> None:
        raise AmbientSolveError("'a <img src=x> & b' begins no concept.")

    with pytest.raises(gr.Error) as error:
        wiring.sentences(wrong)()
    assert error.value.message == "'a &lt;img src=x&gt; &amp; b' begins no concept."
    with pytest.raises(gr.Error) as error:
        wiring.sentences(wrong, program=True)()
    assert error.value.message == "'a <img src=x> & b' begins no concept."


def test_words_for_a_prior_without_them_stand_out_of_sight(picture, prior_folder):
    given = uploaded(picture, prior_folder, samples=1)
    words, plain = (merged(events.restore(each)) for each in (replace(given, **WORDS), given))
    assert "cond" not in words["details"] and read_png(words["download"]["value"]).prompt == ""
    shown = [np.asarray(Image.open(seen["download"]["value"])) for seen in (words, plain)]
    assert (shown[0] == shown[1]).all()
    given.session.close()


def test_many_pictures_are_restored_with_the_words(folders, picture):
    given = values(None, folders["words"], **LATINO, **WORDS, many=[str(picture)])
    updates = list(many.restore_many(given))
    session = updates[0]["session"]
    record = json.loads((session.folder / "many-out" / "old" / "settings.json").read_text())
    assert record["request"]["cond"] == as_prompt() and updates[-2]["table"][0][1] != ""
    session.close()


def test_the_endpoint_takes_words_where_the_prior_does(folders, picture, prior_folder):
    given = {"file": str(picture), "task": "denoise", "options": {"sigma": 0.1}, "mask": None, "preset": "Fast"}
    given |= {"samples": 1, "seed": 0, **WORDS}
    with pytest.raises(AmbientSolveError, match="takes no words"):
        list(api.restored(given, prior_folder, "cpu"))
    quick = {"minutes": 0, "priors": (folders["words"],)}
    *_, (path, record) = api.restored(given, folders["words"], "cpu", Rules(**quick))
    assert record["cond"] == as_prompt() and record["algorithm"] == "latino" and Path(path).suffix == ".png"


def test_guidance_is_priced_as_the_two_passes_that_it_takes():
    plain = RestoreRequest("denoise", {"sigma": 0.1}, prompt="a")
    assert asked(replace(plain, guidance=3.0)) == 2 * asked(plain) == 2 * asked(replace(plain, prompt="", guidance=3.0))


def test_a_recipe_holds_words_and_checks_them():
    recipe = Recipe("words", "denoise", {"sigma": 0.1}, prompt="-a 'q'", guidance=3)
    assert from_json(to_json(recipe)) == recipe and "'--prompt=-a '\"'\"'q'\"'\"''" in cli_command(recipe)
    assert not {"prompt", "negative", "guidance"} & set(json.loads(to_json(replace(recipe, prompt="", guidance=1.0))))
    for wrong in (
        {"prompt": "a" * (MAX_PROMPT + 1)}, {"prompt": 3}, {"prompt": "a\x1b"}, {"prompt": "a", "guidance": 101},
        {"prompt": "a", "guidance": True}, {"negative": "b"}, {"guidance": 2.0}, {"prompt": "a", "negative": None},
    ):  # fmt: skip
        with pytest.raises(AmbientSolveError) as error:
            Recipe(damage={"sigma": 0.1}, **wrong)
        assert one_sentence(error)
