"""More than the page takes: bytes, files, disk; and what of it the terminal shows."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from attacks import BASE, answer, call, png, process, restore_body, upload, wait_until, web

SECRET = "a-word-of-the-visitor"


def temporary_files(server) -> int:
    return len(list(Path(server.page.app.uploaded_file_dir).glob("tmp*")))


def test_nine_hundred_files_are_too_many(server):
    with web(server) as client:
        before = temporary_files(server)
        refused = upload(client, *[png(2)] * 900)
        assert refused.status_code == 413 and "256 files" in refused.text
        assert temporary_files(server) == before, "nothing of a refused upload stays"
        assert upload(client, *[png(2)] * 256).status_code == 200, "control: as many as are taken"


def test_an_upload_that_is_broken_off_leaves_nothing(server):
    place, before = urlsplit(server.address), temporary_files(server)
    head = f"POST /{BASE}/upload HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 100000\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + 1000 * "x"
    with socket.create_connection((place.hostname, place.port), timeout=60) as line:
        line.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n{part}".encode())
        assert wait_until(lambda: temporary_files(server) == before + 1, 60)
    assert wait_until(lambda: temporary_files(server) == before, 60)


def test_no_job_skips_the_queue(server):
    """Gradio has a way in for programs that do not wait; nobody counts there who has how many jobs."""
    from ambient_solve.app.streams import is_job

    fn = next(i for i, fn in server.page.fns.items() if fn.api_name == "restore")
    with web(server) as client:
        body = restore_body(upload(client, png()).json()[0])
        for door in ("run/restore", "api/restore", "run/predict", "api/predict"):
            assert client.post(f"{BASE}/{door}", json={**body, "fn_index": fn}).status_code == 404, door
        assert answer(client, "restore", body)[0] == "complete", "control: through the queue"
    assert all(fn.queue for fn in server.page.fns.values() if is_job(fn))
    assert not all(fn.queue for fn in server.page.fns.values()), "control: what is quick needs no place"


def test_a_large_body_is_not_read(server):
    with web(server) as client:
        large = restore_body("x", options={"sigma": "9" * 100_000_000})
        assert call(client, "restore", large).status_code == 413
        assert call(client, "restore", restore_body("x")).status_code == 200, "control: a small one"


def test_a_large_body_without_a_length_is_cut_off(server):
    read = []

    def endless():
        for _ in range(100):
            read.append(1)
            yield b"[" * 1_000_000

    with web(server) as client:
        headers = {"Content-Type": "application/json"}
        try:
            assert client.post(f"{BASE}/call/restore", content=endless(), headers=headers).status_code == 413
        except Exception as error:  # the server has hung up, before the client was done
            assert type(error).__name__ in ("WriteError", "ReadError", "RemoteProtocolError")
    assert len(read) < 60


def form(field: bytes) -> dict:
    """A body of one field, which gradio and FastAPI keep in memory, that looks like an upload."""
    body = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + field + b"\r\n--b--\r\n"
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


def test_a_part_of_an_upload_that_is_no_file_is_refused(server):
    with web(server) as client:
        refused = client.post(f"{BASE}/upload", **form(b"x" * 100))
        assert refused.status_code == 400 and "Files alone" in refused.text
        assert upload(client, png(2)).status_code == 200, "control: a file"


@pytest.mark.parametrize("door", ["call/restore", "call/upload", "queue/join", "upload/", "component_server", "cancel"])
def test_what_calls_itself_an_upload_elsewhere_is_bounded_like_the_rest(door, server):
    with web(server) as client:
        assert client.post(f"{BASE}/{door}", **form(b"x" * 9_000_000)).status_code == 413
        assert client.post(f"{BASE}/{door}", **form(b"x")).status_code != 413, "control: a small one"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_files_are_counted_however_the_body_is_cut(size):
    from ambient_solve.app.bodies import _Count

    body = (
        b"".join(b'--xyz\r\nContent-Disposition: form-data; name="files"\r\n\r\n--xy\r\n' for _ in range(9))
        + b"--xyz--"
    )
    for files, fits in ((9, True), (8, False)):
        count = _Count(10_000, files, b"--xyz")
        for start in range(0, len(body), size):
            count.take(body[start : start + size], 10_000)
        assert (count.words == "") is fits and count.parts == 10 and count.size == len(body)


def test_a_full_page_takes_no_more(tmp_path):
    from ambient_solve.app.bodies import Bodies, Limits

    taken = []

    async def app(scope, receive, send):
        while True:
            message = await receive()
            taken.append(len(message["body"]))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def status(sizes: list[int], folder: int) -> int:
        chunks, seen = list(sizes), []

        async def receive():
            size = chunks.pop(0)
            return {"type": "http.request", "body": b"x" * size, "more_body": bool(chunks)}

        async def send(message):
            seen.append(message)

        headers = [(b"content-type", b"multipart/form-data; boundary=b")]
        guard = Bodies(app, Limits(upload=10**6, folder=folder), tmp_path)
        asyncio.run(
            guard({"type": "http", "method": "POST", "path": f"/{BASE}/upload", "headers": headers}, receive, send)
        )
        return seen[0]["status"]

    (tmp_path / "there").write_bytes(b"x" * 5000)
    assert status([1000, 1000], 8000) == 200
    taken.clear()
    assert status([1000, 1500, 1500], 8000) == 507 and sum(taken) <= 3000
    assert status([10], 4000) == 507
    (tmp_path / "again").hardlink_to(tmp_path / "there")
    assert status([1000], 8000) == 200, "a second name takes no room"


@pytest.mark.slow
def test_the_terminal_shows_nothing_of_what_visitors_send(prior_folder, tmp_path):
    pytest.importorskip("gradio")
    (tmp_path / "t").mkdir()
    with process(prior_folder, tmp_path / "t") as page, web(page) as client:
        path = upload(client, png()).json()[0]
        for changes in (
            {"task": SECRET},
            {"preset": SECRET * 1000},
            {"options": {SECRET: 1}},
            {"seed": SECRET},
            {"samples": [SECRET]},
            {"mask": {"path": SECRET, "meta": {"_type": "gradio.FileData"}}},
            {"options": {"sigma": SECRET}},
        ):
            happened, answered = answer(client, "restore", restore_body(path, **changes))
            assert happened == "error" and len(json.dumps(answered)) < 3000
        assert answer(client, "restore", restore_body(SECRET))[0] == "error"
        assert answer(client, "restore", restore_body(path))[0] == "complete"
        assert SECRET not in page.said()
        assert "its words are not shown" in page.said(), "control: where it failed is printed"
