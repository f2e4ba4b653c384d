"""The page as a process of its own: how it ends, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attacks import answer, call, png, process, restore_body, upload, web

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # seconds: its tests wait for other processes


def left(temporary: Path) -> list[Path]:
    """Files in the folder for temporary files; libraries may leave empty folders of their own."""
    return [path for path in temporary.rglob("*") if path.is_file()]


@pytest.fixture
def temporary(tmp_path) -> Path:
    pytest.importorskip("gradio")
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.mark.skipif(os.name != "posix", reason="speaks of modes of files")
def test_what_visitors_put_in_and_get_out_is_private_and_goes_with_the_page(prior_folder, temporary):
    with process(prior_folder, temporary) as page, web(page) as client:
        path = Path(upload(client, png()).json()[0])
        happened, answered = answer(client, "restore", restore_body(str(path)))
        assert happened == "complete"
        made = Path(answered[0]["path"])
        assert temporary in path.parents and temporary in made.parents
        for file in (path, made, *left(temporary)):
            doors = [folder for folder in file.parents if temporary in folder.parents]
            assert any(folder.stat().st_mode & 0o077 == 0 for folder in doors), f"{file} lies open"
        assert len(list(temporary.glob("ambient-solve-page-*"))) == 1
        page.process.send_signal(signal.SIGTERM)
        assert page.process.wait(180) == 0
        assert left(temporary) == []


def test_a_page_that_is_told_to_end_while_it_works_ends_in_order(prior_folder, temporary):
    with process(prior_folder, temporary) as page, web(page) as client:
        path = upload(client, png(512)).json()[0]
        assert call(client, "restore", restore_body(path, preset="Faithful", samples=16)).status_code == 200
        time.sleep(3)
        page.process.send_signal(signal.SIGTERM)
        assert page.process.wait(60) == 0
        assert left(temporary) == [] and "Fatal" not in page.said() and "terminate" not in page.said()


def test_what_a_killed_page_has_left_goes_when_the_next_one_starts(prior_folder, temporary):
    with process(prior_folder, temporary) as page, web(page) as client:
        path = Path(upload(client, png()).json()[0])
        page.process.kill()
        page.process.wait()
    assert path.is_file(), "nobody could clear it away"
    with process(prior_folder, temporary) as page, web(page) as client:
        assert not path.exists()
        other = Path(upload(client, png(seed=1)).json()[0])
        # Another page that starts while this one lives leaves it alone.
        with process(prior_folder, temporary):
            assert other.is_file()


def make(base: Path, user: int, pid: int, *, age: float = 1000, lock: bool = True) -> Path:
    folder = base / f"ambient-solve-page-{user}-{pid}-abc"
    folder.mkdir()
    (folder / "picture.png").write_bytes(b"x")
    if lock:
        (folder / "lock").touch()
    os.utime(folder, (time.time() - age,) * 2)
    return folder


@pytest.mark.skipif(os.name != "posix", reason="speaks of users and of links")
def test_only_what_a_dead_page_of_this_user_has_left_is_removed(tmp_path):
    from ambient_solve.app.folder import make_home, purge

    me, dead = os.getuid(), 2**22 + 1  # no process has a number that large
    gone = [make(tmp_path, me, dead), make(tmp_path, me, dead + 1, lock=False), make(tmp_path, me, os.getpid())]
    kept = [make(tmp_path, me + 1, dead), make(tmp_path, me, os.getppid(), age=0), tmp_path / "ambient-solve-page-x"]
    kept[-1].mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    (tmp_path / f"ambient-solve-page-{me}-{dead}-link").symlink_to(tmp_path / "elsewhere")
    live = make_home(tmp_path)
    assert live.path.stat().st_mode & 0o777 == 0o700 and live.gradio.is_dir()
    assert not any(folder.exists() for folder in gone) and all(folder.exists() for folder in kept)
    assert (tmp_path / "elsewhere" / "precious").exists()
    assert purge(tmp_path) == [] and live.path.exists()
    live.close()
    assert not live.path.exists()


def test_the_lock_of_another_process_is_seen(tmp_path):
    from ambient_solve.app.folder import purge

    script = "import sys, pathlib; from ambient_solve.app.folder import make_home\n"
    script += "made = make_home(pathlib.Path(sys.argv[1])); print(made.path, flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        folder = Path(other.stdout.readline().strip())
        os.utime(folder, (0, 0))
        assert purge(tmp_path) == [] and folder.is_dir()
        other.kill()
        other.wait()
        os.utime(folder, (0, 0))
        assert purge(tmp_path) == [folder] and not folder.exists(), "control: once it is dead"
    finally:
        other.kill()
        other.communicate()
