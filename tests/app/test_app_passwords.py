"""Guessing the password, and pages that are opened wider than was meant."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from ambient_solve.cli.dispatch import main
from attacks import process, web


def guess(client, word: str):
    return client.post("/login", data={"username": "ali", "password": word})


@pytest.mark.slow
def test_wrong_passwords_are_answered_ever_more_slowly_and_nobody_else_waits(prior_folder, tmp_path):
    pytest.importorskip("gradio")
    (tmp_path / "t").mkdir()
    (tmp_path / "word").write_text("open sesame\n")
    (tmp_path / "word").chmod(0o600)
    answered = []
    with process(prior_folder, tmp_path / "t", "--auth", f"ali:{tmp_path / 'word'}") as page:

        def attack() -> None:
            with suppress(Exception), web(page) as client:  # the page ends before the attack does
                for n in range(20):
                    answered.append(guess(client, f"wrong {n}").status_code)

        threads = [threading.Thread(target=attack, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(5)
        with web(page) as client:
            assert client.get("/theme.css").status_code == 200, "the page goes on answering"
        got = [code for code in answered if code == 400]
        assert 0 < len(got) <= 5, "at 0, 0.5, 1.5 and 3.5 seconds; the next only after 7.5"
        page.process.kill()
    assert "chmod" not in page_log(tmp_path)


def page_log(folder) -> str:
    return (folder / "t.log").read_text()


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def attempts(passwords, *words: str, address: str = "1.2.3.4") -> list[bool]:
    from ambient_solve.app.hosts import ADDRESS

    async def ask() -> list[bool]:
        ADDRESS.set(address)
        return [await passwords("ali", word) for word in words]

    return asyncio.run(ask())


def test_the_wait_doubles_for_an_address_and_ends_with_the_right_password():
    from ambient_solve.app.passwords import Passwords

    clock = Clock()
    passwords = Passwords({"ali": "right"}, clock, clock.sleep)
    assert attempts(passwords, "a", "b", "c", "d", "right", "right") == [False] * 4 + [True, True]
    assert clock.waits == [0.5, 1.0, 2.0, 4.0], "none after the right one"
    clock.waits.clear()
    assert attempts(passwords, "right", address="5.6.7.8") == [True] and clock.waits == []
    # Another name, and nobody's password.
    assert attempts(Passwords({"ali": "right"}, clock, clock.sleep), "") == [False]


def test_many_addresses_guess_no_faster_than_one():
    from ambient_solve.app.passwords import FREE, OVERALL, PATIENCE, Passwords

    clock = Clock()
    passwords = Passwords({"ali": "right"}, clock, clock.sleep)
    for n in range(FREE):
        attempts(passwords, "wrong", address=f"10.0.0.{n}")
    assert clock.now == 0, "a few slow nobody down"
    for n in range(50):
        attempts(passwords, "wrong", address=f"10.0.1.{n}")
    assert clock.now == 49 * OVERALL
    clock.waits.clear()
    assert attempts(passwords, "right", address="10.9.9.9") == [True] and sum(clock.waits) <= OVERALL
    # At once, they stand in line together, up to a minute.
    still = Passwords({"ali": "right"}, lambda: 0.0, clock.sleep)
    still.all.wrong = FREE
    clock.waits.clear()
    refused = 0
    for n in range(50):
        try:
            attempts(still, "wrong", address=f"10.0.2.{n}")
        except Exception as error:
            refused += getattr(error, "status_code", 0) == 429
    assert clock.waits == [OVERALL * n for n in range(1, int(PATIENCE / OVERALL) + 1)]
    assert refused == 50 - 1 - len(clock.waits)


def test_attempts_at_once_stand_in_line_and_too_many_are_sent_away():
    pytest.importorskip("starlette")
    from starlette.exceptions import HTTPException

    from ambient_solve.app.hosts import ADDRESS
    from ambient_solve.app.passwords import PATIENCE, Passwords

    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    passwords = Passwords({"ali": "right"}, lambda: 0.0, sleep)

    async def all_at_once() -> list:
        ADDRESS.set("1.2.3.4")
        return await asyncio.gather(*(passwords("ali", "wrong") for _ in range(20)), return_exceptions=True)

    found = asyncio.run(all_at_once())
    assert waits[:4] == [0.5, 1.5, 3.5, 7.5] and max(waits) <= PATIENCE
    sent_away = [each for each in found if isinstance(each, HTTPException)]
    assert len(sent_away) + 1 + len(waits) == 20 and {each.status_code for each in sent_away} == {429}


def test_what_is_remembered_is_bounded(monkeypatch):
    from ambient_solve.app import passwords as module

    monkeypatch.setattr(module, "MOST", 5)
    clock = Clock()
    passwords = module.Passwords({"ali": "right"}, clock, clock.sleep)
    for n in range(20):
        attempts(passwords, "wrong", address=str(n))
    assert len(passwords.past) <= 5
    clock.now += module.FORGOTTEN + module.LONGEST + 1
    clock.waits.clear()
    attempts(passwords, "wrong", address="19")
    assert clock.waits == [], "long ago is forgotten"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--share"], "--public"),
        (["--open-priors", "--share", "--public"], "--open-priors"),
        (["--open-priors", "--auth", "ali:{word}"], "--open-priors"),
        (["--open-priors", "--allow-host", "page.example.org"], "--open-priors"),
        (["--allow-host", "http://page.example.org"], "--allow-host"),
        (["--max-minutes", "-1"], "--max-minutes"),
    ],
)
def test_a_page_is_not_opened_wider_than_was_meant(words, said, tmp_path, capsys, monkeypatch):
    from ambient_solve.app import page

    monkeypatch.setattr(page, "launch", lambda *_, **given: pytest.fail(f"launched with {given}"))
    (tmp_path / "word").write_text("open sesame\n")
    assert main(["app", *(word.format(word=tmp_path / "word") for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_what_was_said_reaches_the_page(tmp_path, monkeypatch, capsys):
    from ambient_solve.app import page
    from ambient_solve.cli import app

    given = SimpleNamespace()
    monkeypatch.setattr(page, "launch", lambda *words, **options: given.__dict__.update(options))
    monkeypatch.setattr(app, "leave", lambda: given.__dict__.update(left=True))
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    (tmp_path / "word").write_text("open sesame\n")
    (tmp_path / "word").chmod(0o644)
    words = ["--share", "--auth", f"ali:{tmp_path / 'word'}", "--max-minutes", "5"]
    assert not main(["app", *words, "--allow-host", "a.example", "--allow-host", "b.example", "--more-priors", "other"])
    assert given.auth == [("ali", "open sesame")] and given.names == {"a.example", "b.example"} and given.left
    assert given.rules.minutes == 5 and given.rules.priors == ("photos", "other") and not given.rules.any_prior
    assert "chmod 600" in capsys.readouterr().err, "others can read the password"
    (tmp_path / "word").chmod(0o600)
    main(["app", *words])
    assert "chmod" not in capsys.readouterr().err, "control"
