"""clips/links.py: no link stops a download, and none leads where it should not. Lesson 14."""

import http.server
import os
import queue
import signal
import threading
from collections import Counter
from functools import partial

import numpy as np
import pytest

from tinygif import files
from tinygif.clips import links
from tinygif.clips.links import download_gifs, file_name
from tinygif.clips.sources import Item, collect
from tinygif.errors import TinygifError
from tinygif.files import public_addresses
from tinygif.gif import encode_gif

CLIP = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
GIF = encode_gif(CLIP // 64 * 64, [100, 50, 30])


AWAY = {
    "moved": "/ok_target.gif", "loop": "/loop_1.gif", "ftp": "ftp://127.0.0.1:{port}/ok_1.gif",
    "local": "http://127.0.0.2:{port}/ok_local.gif", "file": "file:///etc/hostname",
    "named": "http://localhost:{port}/ok_named.gif",
}  # fmt: skip


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as the path says; every request is counted."""

    seen = Counter()

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.strip("/").split("_")[0]
        self.seen[self.path] += 1
        body = {"html": b"<html>gone</html>", "huge": GIF + bytes(5000)}.get(name, GIF)
        if name == "slow":
            return threading.Event().wait(1)
        if name == "drip":  # a byte now and then, for ever
            self.send_response(200)
            self.end_headers()
            while not threading.Event().wait(0.05):
                self.wfile.write(b"GIF8")
        if name == "hangup":
            return self.connection.close()
        if name == "busy" and self.seen[self.path] < 3:
            return self.send_error(503)
        if name.isdigit():
            return self.send_error(int(name))
        if name in AWAY:
            self.send_response(301)
            self.send_header("Location", AWAY[name].format(port=self.server.server_port))
            return self.end_headers()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + 100 * (name == "cut")))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    Server.seen.clear()
    others = threading.enumerate()
    monkeypatch.setattr(links, "TIMEOUT", 0.3)
    monkeypatch.setattr(links, "LONGEST", 0.5)
    monkeypatch.setattr(links, "RATE", 1000.0)
    monkeypatch.setattr(links, "MAX_BYTES", 4000)
    own = lambda host: [host] if host == "127.0.0.1" else public_addresses(host)  # noqa: E731
    monkeypatch.setattr(files, "public_addresses", own)
    with Quiet(("127.0.0.1", 0), Server) as running:
        running.over = threading.Event()
        serve = partial(running.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.over.set()
        running.shutdown()
    for thread in set(threading.enumerate()).difference(others):
        if "(worker)" in thread.name:
            thread.join()  # a download that was stopped has left some


AGAIN = {  # in the same call, too
    "slow": "no answer: timed out", "drip": "no answer: too slow",
    "hangup": "no answer: Remote end closed connection without response",
    "cut": f"no answer: cut short after {len(GIF)} of {len(GIF) + 100} bytes",
    "500": "no answer: 500",
}  # fmt: skip
LATER = {  # by the next call
    "403": "refused: 403", "401": "refused: 401", "loop": "refused: 301",
    "html": "no answer: what came is no GIF", "file": "refused: 301",
    "local": "no answer: 127.0.0.2 is 127.0.0.2, no public address",
}  # fmt: skip
NEVER = {
    "404": "dead link: 404", "410": "dead link: 410", "huge": "too large: more than 4000 bytes"
}  # fmt: skip
FINE = ("ok", "moved", "busy")


def test_every_link_is_a_gif_or_a_reason(server, tmp_path):
    urls = {name: f"{server}{name}_1.gif" for name in (*AGAIN, *FINE, *LATER, *NEVER)}
    failures = download_gifs(list(urls.values()), tmp_path)
    assert failures == {urls[name]: why for name, why in (AGAIN | LATER | NEVER).items()}
    for name in FINE:
        assert (tmp_path / file_name(urls[name])).read_bytes() == GIF
    assert {path.name for path in tmp_path.iterdir()} == {
        *(file_name(urls[name]) for name in FINE), "dead_links.jsonl", ".lock"
    }  # fmt: skip
    tries = {name: Server.seen[f"/{name}_1.gif"] for name in urls}
    assert [tries[name] for name in ("slow", "cut", "busy", "500")] == [3] * 4
    assert [tries[name] for name in ("ok", "404", "html", "huge", "403", "local")] == [1] * 6
    assert Server.seen["/ok_local.gif"] == 0

    with open(tmp_path / "dead_links.jsonl", "a") as file:  # as a kill may leave it
        file.write('{"url": "http://x')
    Server.seen.clear()
    again = download_gifs(list(urls.values()), tmp_path)
    assert again == failures  # what came, and what is dead, is not asked for again
    assert {name for name in urls if Server.seen[f"/{name}_1.gif"]} == {*AGAIN, *LATER}


def test_what_was_behind_a_login_page_comes_when_it_may(server, tmp_path, monkeypatch):
    urls = [f"{server}{name}_1.gif" for name in ("html", "403", "slow")]
    assert len(download_gifs(urls, tmp_path)) == 3

    def answer(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(GIF)

    monkeypatch.setattr(Server, "do_GET", answer)
    assert download_gifs(urls, tmp_path) == {}
    assert all((tmp_path / file_name(url)).read_bytes() == GIF for url in urls)


@pytest.mark.parametrize(("name", "why"), [
    ("local", "127.0.0.2, no public address"), ("named", "no public address"),
    ("ftp", "unknown url type: ftp"), ("file", "301"),
])  # fmt: skip
def test_a_redirect_leads_to_no_private_place(server, tmp_path, name, why):
    failures = download_gifs([f"{server}{name}_1.gif"], tmp_path)
    assert why in failures[f"{server}{name}_1.gif"]
    assert list(Server.seen)[0] == f"/{name}_1.gif" and len(Server.seen) == 1


def test_a_link_leads_to_no_private_place(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "public_addresses", public_addresses)
    failures = download_gifs([f"{server}ok_1.gif"], tmp_path)
    assert list(failures.values()) == ["no answer: 127.0.0.1 is 127.0.0.1, no public address"]
    assert not Server.seen


def test_ctrl_c_waits_for_no_answer(server, tmp_path, monkeypatch):
    """The answers would come in 30 seconds."""
    monkeypatch.setattr(links, "TIMEOUT", 60.0)
    monkeypatch.setattr(links, "LONGEST", 60.0)
    answered = []

    def late(self):
        if self.path == "/late_0.gif":
            os.kill(os.getpid(), signal.SIGINT)
        self.server.over.wait(30)
        answered.append(self.path)

    monkeypatch.setattr(Server, "do_GET", late)
    threads = threading.active_count()
    # a shell starts what runs in the background with Ctrl-C ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            download_gifs([f"{server}late_{i}.gif" for i in range(20)], tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert answered == [] and threading.active_count() > threads
    with files.lock(tmp_path / ".lock"):  # another call may go on at once
        pass


def test_of_two_downloads_into_one_folder_one_waits(server, tmp_path, monkeypatch):
    urls, said = [f"{server}ok_{i}.gif" for i in range(6)], queue.Queue()
    monkeypatch.setattr(files, "print", lambda text, **_: said.put(text), raising=False)
    second = threading.Thread(target=download_gifs, args=(urls, tmp_path))
    with files.lock(tmp_path / ".lock"):
        second.start()
        assert said.get(timeout=20).startswith("another process downloads into")
        assert not Server.seen
        for url in urls:
            (tmp_path / file_name(url)).write_bytes(GIF)
    second.join()
    assert not Server.seen  # it finds what the first one has fetched


def test_without_a_network_it_does_not_try_every_link(server, tmp_path):
    urls = [f"{server}500_{i}.gif" for i in range(200)]
    with pytest.raises(TinygifError, match="50 links one after another .*no answer: 500. Is there"):
        download_gifs([f"{server}ok_1.gif", *urls], tmp_path)
    assert len(Server.seen) < 100 and len(list(tmp_path.glob("*.gif"))) == 1


def test_a_stopped_download_goes_on(server, tmp_path, monkeypatch):
    urls = [f"{server}ok_{i}.gif" for i in range(12)]
    sync, left = files.os.fsync, iter(range(5))

    def full(file):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(TinygifError, match="could not write .*No space left"):
        download_gifs(urls, tmp_path)
    before = {path.name for path in tmp_path.glob("*.gif")}
    assert 0 < len(before) <= 5 and not list(tmp_path.glob(".*.part"))
    monkeypatch.setattr(files.os, "fsync", sync)
    Server.seen.clear()
    assert download_gifs(urls, tmp_path) == {}
    kept = {f"/ok_{i}.gif" for i, url in enumerate(urls) if file_name(url) in before}
    assert not kept & set(Server.seen)


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TinygifError, match="cannot write to the cache .*set TINYGIF_CACHE"):
        download_gifs(["http://127.0.0.1:9/a.gif"], tmp_path / "file" / "tgif")


def test_tgif_lines_become_clips(server, tmp_path):
    lines = [f"{server}ok_1_500.gif\tA man's hat, falls.", f"{server}404_r1_400.gif\tgone.",
             f"{server}ok_1_500.gif\ta hat", f"{server}ok_2_1280.gif\tTwo, men,"]  # fmt: skip
    table = tmp_path / "tgif-v1.0.tsv"
    table.write_text("\n".join(lines) + "\n")
    first, dead, second = collect(table)
    assert first.captions == ("A man's hat, falls.", "a hat") and second.captions == ("Two, men,",)
    assert dead == Item(f"{server}404_r1_400.gif", None, ("gone.",), "dead link: 404")
    assert first.path.read_bytes() == second.path.read_bytes() == GIF
    assert collect(table, limit=1) == [first]
    (tmp_path / "test.txt").write_text(f"{server}ok_2_1280.gif\n")
    assert collect(table, split=str(tmp_path / "test.txt")) == [second]


@pytest.mark.parametrize("text", ["", "file:///etc/passwd\tsecret", "a.gif\tno link"])
def test_only_links_of_the_web_are_followed(tmp_path, text):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(TinygifError, match="expected lines of link TAB sentence"):
        collect(tmp_path / "a.tsv")


def test_requests_are_spread_in_time(monkeypatch):
    """A clock that only moves by sleeping: 9 requests at 4 a second take 9 quarters of one."""
    now = [100.0]
    monkeypatch.setattr(links, "RATE", 4.0)
    monkeypatch.setattr(links.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    times = [links.wait_for_turn() or now[0] for _ in range(9)]
    assert np.allclose(np.diff(times), 0.25) and times[-1] - 100 == pytest.approx(2.25)


def test_only_one_thread_waits_at_a_time(monkeypatch):
    """Else 8 threads would send 8 times as many requests."""
    waiting, most = [], []

    def sleep(seconds):
        waiting.append(seconds)
        most.append(len(waiting))
        threading.Event().wait(0.005)
        waiting.pop()

    monkeypatch.setattr(links.time, "sleep", sleep)
    threads = [threading.Thread(target=links.wait_for_turn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
