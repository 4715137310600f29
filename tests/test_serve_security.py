"""What strangers must not be able to do: reach inside addresses, read files, fill memory, or learn of the inside."""

from __future__ import annotations

import base64
import errno
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import foveate  # noqa: E402
from foveate.errors import InputError, MediaError, PlanError  # noqa: E402
from foveate.serve import Settings  # noqa: E402
from foveate.serve.addresses import allowed, public  # noqa: E402
from foveate.serve.fetch import Fetcher, parts  # noqa: E402
from foveate.serve.media import Opener  # noqa: E402
from foveate.serve.plans import client_plan  # noqa: E402
from foveate.serve.problems import Problem, told  # noqa: E402
from foveate.spec import Plan  # noqa: E402
from serve_kit import Served, clip, picture, said, serving, uri  # noqa: E402

CLOSED = (
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::a00:1",
    "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1", "2001:0:0:0:0:0:f5ff:fffe", "no address", "",
)  # fmt: skip


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", CLOSED)
def test_closed_addresses(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_open_addresses(address: str) -> None:
    assert public(address)


def test_one_closed_address_closes_the_name() -> None:
    assert allowed(["8.8.8.8"])
    assert not allowed(["8.8.8.8", "10.0.0.1"])
    assert not allowed([])


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/x", "file:///etc/passwd", "/etc/passwd", "http://", "http://user:pw@example.com/",
        "http://example.com:22/", "http://example.com:0/", "http://example.com:99999/", "http://exa mple.com/",
        "http://example.com/\r\nX: y", "http://[::1/", "gopher://example.com/", "http://ex\u00e4mple.com/", "//x/y",
    ],
)  # fmt: skip
def test_addresses_that_are_not_taken(url: str) -> None:
    with pytest.raises(Problem):
        parts(url)


# --- fetching -----------------------------------------------------------------------------------------------------


class Site:
    """A web server at a loopback address; what each path answers is given."""

    def __init__(self, paths: dict[str, Callable[[BaseHTTPRequestHandler], None]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths[self.path](self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def give(body: bytes, status: int = 200, length: bool = True, **headers: str) -> Callable[[Any], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(5000):
        try:
            handler.wfile.write(b"x")
        except OSError:
            return
        time.sleep(0.02)


def drip_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drip_body = 0
    while drip_body < 5000:
        try:
            handler.wfile.write(b"x")
        except OSError:
            return
        drip_body += 1
        time.sleep(0.02)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    at = Site(
        {
            "/ok": give(b"hello"),
            "/big": give(b"x" * 5000),
            "/big-unsaid": give(b"x" * 5000, length=False),
            "/gone": give(b"", 404),
            "/zip": give(b"x", Content_Encoding="gzip"),
            "/moved": give(b"", 302, Location="/ok"),
            "/inside": give(b"", 302, Location="http://inside.test/ok"),
            "/metadata": give(b"", 302, Location="http://169.254.169.254/latest"),
            "/file": give(b"", 302, Location="file:///etc/passwd"),
            "/round": give(b"", 302, Location="/round"),
            "/nowhere": give(b"", 302),
            "/drip": drip,
            "/drip-head": drip_head,
        }
    )
    yield at
    at.server.shutdown()


def fetcher(names: dict[str, list[str]] | None = None, seconds: float = 5.0, **more: Any) -> Fetcher:
    """With a resolver of its own: site.test lies at the loopback address and is let through by name."""
    known = {"site.test": ["127.0.0.1"], "inside.test": ["127.0.0.1"], **(names or {})}
    return Fetcher(1000, seconds, private=frozenset(["site.test"]), resolve=lambda h, p: known.get(h, [h]), **more)


def fetch(site: Site, path: str, **more: Any) -> bytes:
    out = io.BytesIO()
    fetcher(**more).fetch(f"http://site.test:{site.port}{path}", out)
    return out.getvalue()


def test_fetching(site: Site) -> None:
    assert fetch(site, "/ok") == b"hello"
    assert fetch(site, "/moved") == b"hello"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/big", "media_too_large"), ("/big-unsaid", "media_too_large"), ("/gone", "media_unreachable"),
        ("/zip", "media_unreachable"), ("/inside", "media_address"), ("/metadata", "media_address"),
        ("/file", "media_address"), ("/round", "media_address"), ("/nowhere", "media_unreachable"),
    ],
)  # fmt: skip
def test_what_is_not_fetched(site: Site, path: str, code: str) -> None:
    with pytest.raises(Problem) as caught:
        fetch(site, path)
    assert caught.value.code == code


@pytest.mark.parametrize("path", ["/drip", "/drip-head"])
def test_a_server_that_drips(site: Site, path: str) -> None:
    begun = time.monotonic()
    with pytest.raises(Problem) as caught:
        fetch(site, path, seconds=0.4)
    assert caught.value.code == "media_timeout"
    assert time.monotonic() - begun < 30


def test_private_names_and_addresses_are_denied(site: Site) -> None:
    for host in ("inside.test", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(Problem) as caught:
            fetcher().fetch(f"http://{host}:{site.port}/ok", io.BytesIO())
        assert caught.value.code == "media_address"


def test_a_name_is_looked_up_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DNS server that answers with a public address first and an inside one next gets nowhere."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    asked: list[str] = []
    reached: list[Any] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    def connect(address: Any, timeout: float) -> Any:
        reached.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Problem):
        Fetcher(1000, 5.0, resolve=resolve).fetch(f"http://rebind.test:{site.port}/ok", io.BytesIO())
    assert asked == ["rebind.test"]
    assert reached == [("93.184.216.34", site.port)]


def test_the_environments_proxies_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(site, "/ok") == b"hello"


# --- media --------------------------------------------------------------------------------------------------------


def test_media_within_limits() -> None:
    opener = Opener(Settings())
    one = opener.open("image", uri(picture()), 16)
    assert (one.kind, len(one.frames), one.times) == ("image", 1, ())
    film = opener.open("video", clip(frames=8), 4)
    assert (len(film.frames), len(film.times)) == (4, 4)
    assert opener.open("video", clip(frames=8), 5).digest != film.digest
    assert (
        opener.open("image", uri(picture()), 3).digest == one.digest != opener.open("image", uri(picture(1)), 3).digest
    )


@pytest.mark.parametrize(
    ("limits", "kind", "url", "code"),
    [
        ({"media_bytes": 100}, "image", uri(picture()), "media_too_large"),
        ({"video_seconds": 0.5}, "video", clip(), "media_too_long"),
        ({"fetch": False}, "image", "http://example.com/x.png", "media_address"),
        ({}, "image", "data:image/png,abc", "bad_media"),
        ({}, "image", "data:image/png;base64", "bad_media"),
        ({}, "image", "data:;base64,", "bad_media"),
        ({"media_seconds": 1e-9}, "video", clip(), "media_timeout"),
    ],
)
def test_media_over_limits(limits: dict[str, Any], kind: str, url: str, code: str) -> None:
    with pytest.raises(Problem) as caught:
        Opener(Settings(**limits)).open(kind, url, 4)
    assert caught.value.code == code


def test_damaged_media_and_too_many_pixels() -> None:
    whole = base64.b64decode(uri(picture()).split(",")[1])
    for data in (whole[: len(whole) // 2], b"<html>", b"\0" * 64):
        url = "data:;base64," + base64.b64encode(data).decode()
        for kind in ("image", "video"):
            with pytest.raises(MediaError):
                Opener(Settings()).open(kind, url, 4)
    with pytest.raises(MediaError):
        Opener(Settings(pixels=100)).open("image", uri(picture()), 4)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, mode: Full())
    with pytest.raises(Problem) as caught:
        Opener(Settings()).open("image", uri(picture()), 4)
    assert (caught.value.status, caught.value.code) == (503, "no_storage")


def test_files_are_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opener = Opener(Settings())
    opener.open("image", uri(picture()), 4)
    with pytest.raises(MediaError):
        opener.open("image", "data:;base64,AAAA", 4)
    assert not list(tmp_path.iterdir())


# --- plans --------------------------------------------------------------------------------------------------------

OWN = Plan.of("divprune(keep=0.5)")


def test_plans_of_clients() -> None:
    assert client_plan(None, None, OWN) is OWN
    assert str(client_plan("none", None, OWN)) == ""
    assert str(client_plan(None, 0.25, OWN)) == "divprune(keep=0.25)"
    both = client_plan("snapkv + random(keep=0.5)", 0.125, OWN)
    assert str(both) == "random(keep=0.125) + snapkv"
    assert str(client_plan("gtp_vit(graph='spatial')", None, OWN)) == "gtp_vit(graph='spatial')"


@pytest.mark.parametrize(
    "plan",
    [
        "cskv(weights='/etc/passwd')", "speculative(draft='/root')", "speculative(draft='some/model')", "plan.yaml",
        "/etc/passwd", "divprune(keep='x')", "__import__('os')", "a" * 2000, "(" * 900, "-" * 900, "x.y()",
        " + ".join(["random"] * 9), "divprune(keep=1e999)", "fastv(layer=[[[]]])",
    ],
)  # fmt: skip
def test_plans_that_are_not_taken(plan: str) -> None:
    with pytest.raises(PlanError) as caught:
        client_plan(plan, None, OWN)
    assert "/etc" not in str(caught.value) or "cannot read" in str(caught.value)


def test_a_plan_says_nothing_about_files(tmp_path: Path) -> None:
    """The answer is the same whether a file is there or not."""
    (tmp_path / "there.safetensors").write_bytes(b"x")
    said = []
    for name in ("there", "missing"):
        with pytest.raises(PlanError) as caught:
            client_plan(f"cskv(weights={str(tmp_path / name) + '.safetensors'!r})", None, OWN)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_server_with_plans_of_its_own() -> None:
    only = ("divprune(keep=0.2)", "none")
    assert str(client_plan("divprune(keep=0.2)", None, OWN, only)) == "divprune(keep=0.2)"
    assert str(client_plan(None, 0.3, OWN, only)) == "divprune(keep=0.3)"
    with pytest.raises(Problem):
        client_plan("foveal", None, OWN, only)


# --- the server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(foveate.load("tiny"), "none", keys=("open sesame",), body=20_000, reading=0.5) as at:
        yield at


def post(at: Served, content: Any, **headers: str) -> Any:
    told = {"Authorization": "Bearer open sesame", "Content-Type": "application/json", **headers}
    return httpx.post(f"{at.url}/v1/chat/completions", content=content, headers=told, timeout=60)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/metrics", "/openapi.json", "/v1/chat/completions"])
@pytest.mark.parametrize("key", [None, "Bearer", "Bearer wrong", "Basic open sesame", "Bearer open sesamE"])
def test_nothing_opens_without_a_key(served: Served, path: str, key: str | None) -> None:
    headers = {} if key is None else {"Authorization": key}
    out = httpx.get(served.url + path, headers=headers)
    assert out.status_code == 401
    assert out.json()["error"]["type"] == "authentication_error"


def test_what_is_open(served: Served) -> None:
    for path in ("/", "/health", "/page/app.js", "/page/draw.js", "/page/style.css"):
        out = httpx.get(served.url + path)
        assert out.status_code == 200
        assert out.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in out.headers["content-security-policy"]
    assert httpx.get(served.url + "/page/../app.py").status_code in (401, 404)
    assert httpx.get(served.url + "/docs", headers={"Authorization": "Bearer open sesame"}).status_code == 404


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422), (b"{", 400), (b"[1]", 422), (b"null", 422), (b'"x"', 422), (b"\xff\xfe", 400),
        (b"[" * 19_000, 400), (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 422),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "temperature": 1e-300}', 200),
        (b'{"messages": [{"role": "user", "content": "x\\u0000"}], "max_tokens": 1}', 200),
        (b'{"messages": [{"role": "user", "content": "x"}], "foveate": {"keep": 1e999}}', 422),
        (b'{"messages": [{"role": "user", "content": "x"}], "foveate": {"path": "/etc"}}', 422),
        (b" " * 30_000, 413),
    ],
)  # fmt: skip
def test_bodies(served: Served, content: bytes, status: int) -> None:
    out = post(served, content)
    assert out.status_code == status, out.text
    if status != 200:
        assert set(out.json()["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in out.text


def test_a_body_without_a_length_has_a_limit(served: Served) -> None:
    assert post(served, (b" " * 1000 for _ in range(30))).status_code == 413


def test_a_body_that_never_ends(served: Served) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as line:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer open sesame\r\n"
        line.sendall((head + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode())
        line.settimeout(20)
        assert b" 408 " in line.recv(4096)


def test_other_types_are_refused(served: Served) -> None:
    body = b'{"messages": [{"role": "user", "content": "x"}]}'
    assert post(served, body, **{"Content-Type": "text/plain"}).status_code == 415


def test_request_ids(served: Served) -> None:
    given = {name: post(served, b"{", **{"X-Request-Id": name}).headers["x-request-id"] for name in ("a-1.b_2", "a b")}
    assert given["a-1.b_2"] == "a-1.b_2"
    assert given["a b"] != "a b"


def test_failures_are_told_in_fixed_words() -> None:
    for error in (
        RuntimeError("secret"),
        OSError("secret"),
        InputError("secret"),
        MediaError("secret"),
        KeyError("secret"),
    ):
        assert "secret" not in told(error).message
    assert told(MemoryError()).status == 503
    assert "nearest" in told(PlanError("nearest")).message


def test_settings_are_checked() -> None:
    for wrong in ({"waiting": 0}, {"deadline": -1.0}, {"keys": ("",)}, {"frames": 500}, {"keys": ("k\u00e4se",)}):
        with pytest.raises(InputError):
            Settings(**wrong)


def test_messages_with_media_of_others(served: Served) -> None:
    talk = [{"role": "assistant", "content": said("x", ("image", "data:,"))[0]["content"]}, *said("x")]
    assert post(served, json.dumps({"messages": talk})).status_code == 400
