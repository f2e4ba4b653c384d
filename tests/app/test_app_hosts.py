"""Sites that pretend to be the page, and pages of other sites that use it: both are refused, and change nothing."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from ambient_solve.errors import AmbientSolveError
from attacks import BASE, answer, call, png, restore_body, upload, web

EVIL = {"Host": "evil.example", "Origin": "http://evil.example"}


def test_a_name_that_was_made_to_lead_here_is_not_the_page(server):
    with web(server) as client:
        path = upload(client, png()).json()[0]
        assert answer(client, "restore", restore_body(path))[0] == "complete", "control: the page itself"
        asked = {
            "page": client.get("/", headers=EVIL),
            "upload": upload(client, png(), headers=EVIL),
            "restore": call(client, "restore", restore_body(path), headers=EVIL),
            "mri": call(client, "mri", {"data": [[], "zero-filled", "", {}, "random", 1.0]}, headers=EVIL),
            "download": client.get(f"{BASE}/file={path}", headers=EVIL),
            "config": client.get("/config", headers=EVIL),
        }
        assert {name: reply.status_code for name, reply in asked.items()} == dict.fromkeys(asked, 403)
        assert client.get(f"{BASE}/file={path}").status_code == 200, "control: the page itself"


@pytest.mark.parametrize("host", ["", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:7860", "a@b"])
def test_what_only_resembles_this_machine_is_refused(server, host):
    with web(server) as client:
        assert client.get("/config", headers={"Host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "127.8.9.10:80", "[::1]:7860"])
def test_this_machine_may_be_called_by_all_its_names(server, host):
    with web(server) as client:
        assert client.get("/config", headers={"Host": host}).status_code == 200


def test_two_hosts_are_none(server):
    place = urlsplit(server.address)
    with socket.create_connection((place.hostname, place.port), timeout=60) as line:
        line.sendall(b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert line.recv(100).split()[1] in (b"400", b"403")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_a_page_of_another_site_changes_nothing(server, origin):
    with web(server) as client:
        files = {"headers": {"Origin": origin}}
        assert upload(client, png(), **files).status_code == 403
        assert call(client, "restore", restore_body("x"), **files).status_code == 403
        own = {"headers": {"Origin": server.address.rstrip("/")}}
        assert upload(client, png(), **own).status_code == 200, "control: the page itself"


def test_a_form_of_another_site_without_origin_changes_nothing(server):
    with web(server) as client:
        assert upload(client, png(), headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert upload(client, png(), headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_name_that_was_allowed_is_the_page(prior_folder):
    pytest.importorskip("gradio")
    from types import SimpleNamespace

    from ambient_solve.app.page import launch

    page, address = launch(prior_folder, "cpu", names={"page.example.org"}, block=False)
    try:
        with web(SimpleNamespace(address=address)) as client:
            good = {"Host": "page.example.org", "Origin": "https://page.example.org"}
            assert upload(client, png(), headers=good).status_code == 200
            # A proxy may ask by the address of the page, and name itself.
            behind = {"Origin": "https://page.example.org", "X-Forwarded-Host": "page.example.org"}
            assert upload(client, png(), headers=behind).status_code == 200
            assert upload(client, png(), headers={"X-Forwarded-Host": "evil.example"}).status_code == 403
            assert upload(client, png(), headers=EVIL).status_code == 403
            assert upload(client, png(), headers={**good, "Origin": "http://evil.example"}).status_code == 403
    finally:
        page.close()


def test_names_are_names():
    from ambient_solve.app.hosts import checked_names

    assert checked_names(["Page.example.org", "box"]) == {"page.example.org", "box"}
    for wrong in ("http://page.example.org", "page.example.org:80", "*", "*.example.org", "", "a b", "page/x"):
        with pytest.raises(AmbientSolveError, match="--allow-host"):
            checked_names([wrong])
