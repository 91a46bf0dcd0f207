"""files.py: a file is whole or not there, whatever kills, fills or damages. Lesson 15."""

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinygif import files
from tinygif.errors import TinygifError

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "here"))
    assert files.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("TINYGIF_CACHE")
    assert files.cache_dir() == Path.home() / ".cache" / "tinygif"


def test_a_hash_is_the_hash_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    assert files.sha256(tmp_path / "x") == DIGEST


# ---- writing ---------------------------------------------------------------------------------


def test_a_write_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    for data in (b"old", b"", DATA):
        files.write_whole(tmp_path / "x", data)
        assert (tmp_path / "x").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_who_reads_meanwhile_sees_the_old_file(tmp_path):
    files.write_whole(tmp_path / "x", b"old")
    with files.whole_file(tmp_path / "x") as file:
        file.write(DATA)
        file.flush()
        assert (tmp_path / "x").read_bytes() == b"old"
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    files.write_whole(tmp_path / "x", b"old")
    with pytest.raises(KeyError), files.whole_file(tmp_path / "x") as file:
        file.write(DATA)
        raise KeyError
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_file_and_folder_are_synced_in_this_order(tmp_path, monkeypatch):
    """The file before it gets its name; the folder after, or the old name may return."""
    calls, fsync, replace = [], os.fsync, os.replace

    def sync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append(("sync", os.path.samestat(os.fstat(descriptor), os.stat(tmp_path)))
                     if is_folder else "sync file")  # fmt: skip
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("rename") or replace(*names))
    files.write_whole(tmp_path / "x", DATA)
    assert calls == ["sync file", "rename", ("sync", True)]


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(path, mode):
    file = open(path, mode)

    def write(data):
        file.write(data[: len(data) // 2])
        full()

    close = lambda *_: file.close()  # noqa: E731
    return type("Half", (), dict(
        __enter__=lambda self: SimpleNamespace(write=write), __exit__=close))()  # fmt: skip


@pytest.mark.parametrize("break_it", [
    lambda patch: patch.setattr(os, "fsync", full),
    lambda patch: patch.setattr(files, "open", half_written, raising=False),
    lambda patch: patch.setattr(files, "open", full, raising=False),
    lambda patch: patch.setattr(os, "replace", full),
])  # fmt: skip
def test_a_write_that_fails_leaves_the_last_good_one(tmp_path, monkeypatch, break_it):
    files.write_whole(tmp_path / "x", b"old")
    with monkeypatch.context() as patch:
        break_it(patch)
        with pytest.raises(TinygifError, match="No space left on device.*untouched"):
            files.write_whole(tmp_path / "x", DATA)
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    files.write_whole(tmp_path / "x", DATA)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "gone", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(TinygifError, match="could not write .*choose another place"):
            files.write_whole(folder / "x", DATA)
    assert not (tmp_path / "gone").exists()


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path):
    """Also those of other machines, of which nobody here can say whether they live."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    here, name = socket.gethostname(), "[x].gif"
    dead = f".{name}.{here}-{child.pid}-7.part"
    others = [f".{name}.{here}-1-1.part", f".{name}.{here}-{os.getppid()}-7.part",
              f".{name}.{here}-2-{child.pid}-7.part", f".{name}.elsewhere-{child.pid}-7.part",
              f".other.{here}-{child.pid}-7.part"]  # fmt: skip
    for part in (dead, *others):
        (tmp_path / part).write_bytes(b"half")
    files.write_whole(tmp_path / name, DATA)
    assert {path.name for path in tmp_path.iterdir()} == {name, *others}


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    """Each has a half-written file of its own."""
    starting, failures = threading.Barrier(4), []

    def write(data):
        try:
            with files.whole_file(tmp_path / "x") as file:
                file.write(data)
                starting.wait()
        except TinygifError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(bytes([i]) * 1000,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and [path.name for path in tmp_path.iterdir()] == ["x"]
    assert len(set((tmp_path / "x").read_bytes())) == 1


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from tinygif.files import write_whole
for number in itertools.count(1):
    write_whole(Path(sys.argv[1]), number.to_bytes(4, "big") * 4_000_000)
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02])
def test_a_kill_leaves_a_whole_file(tmp_path, delay):
    path = tmp_path / "x"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, path], stdout=subprocess.PIPE, text=True
    )
    numbers = [int(child.stdout.readline()) for _ in range(3)]
    time.sleep(delay)  # somewhere in the middle of the next
    child.send_signal(signal.SIGKILL)
    numbers += [int(line) for line in child.stdout]
    assert child.wait() == -signal.SIGKILL
    data = path.read_bytes()
    assert len(data) == 16_000_000 and len(set(data[i::4] for i in range(4))) <= 4
    number = int.from_bytes(data[:4], "big")
    assert data == number.to_bytes(4, "big") * 4_000_000
    assert number in (numbers[-1], numbers[-1] + 1)
    files.write_whole(path, DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# ---- room and locks --------------------------------------------------------------------------


def test_room_is_checked_and_leaves_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "run"
    for free, enough in ((1_000_000, True), (999_999, False), (0, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if enough:
            files.check_room(folder, 1_000_000, "a run")
        else:
            with pytest.raises(TinygifError, match="MB free, a run may need 1 MB"):
                files.check_room(folder, 1_000_000, "a run")
        assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_found(tmp_path):
    """Below a file: permissions do not stop root."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(TinygifError, match="cannot write to .*choose another --out"):
            files.check_room(folder, 1, "a run")


def test_a_lock_is_held_by_one(tmp_path):
    """Two locks of one process exclude each other as those of two processes do."""
    path = tmp_path / "folder" / ".lock"
    with files.lock(path):
        with pytest.raises(TinygifError, match="another process works in .*folder"):
            with files.lock(path):
                raise AssertionError("both hold it")
    with files.lock(path):
        pass
    with pytest.raises(KeyError), files.lock(path):
        raise KeyError
    with files.lock(path):  # an error gives it back
        pass


def test_a_lock_where_nothing_can_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / ".lock", tmp_path / "file" / "run" / ".lock"):
        with pytest.raises(TinygifError, match="cannot write to .*choose another --out"):
            with files.lock(path):
                pass


@pytest.fixture
def waiting(monkeypatch):
    """Is set when somebody has said to wait for a lock."""
    said = threading.Event()
    monkeypatch.setattr(files, "print", lambda *_, **__: said.set(), raising=False)
    return said


def test_a_lock_may_be_waited_for(tmp_path, waiting):
    order, held = [], threading.Event()

    def first():
        with files.lock(tmp_path / ".lock"):
            held.set()
            assert waiting.wait(20)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with files.lock(tmp_path / ".lock", waiting="waiting for the other"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_may_be_waited_for_where_its_folder_disappears(tmp_path, waiting):
    """Who had it may delete the folder at the end, as the command that prepares clips does."""
    path, held, entered = tmp_path / "work" / "lock", threading.Event(), []

    def first():
        with files.lock(path):
            held.set()
            assert waiting.wait(20)
            shutil.rmtree(path.parent)

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with files.lock(path, waiting="waiting for the other"):
        thread.join()
        entered.append(path.exists())
    assert entered == [True]


HOLD = """
import sys
from pathlib import Path
from tinygif.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    child = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert child.stdout.readline() == "held\n"
    with pytest.raises(TinygifError, match="another process"), files.lock(path):
        pass
    child.kill()
    child.wait()
    with files.lock(path):
        pass


# ---- downloads -------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Answers a path with what its name says."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["User-Agent"]))
        match self.path:
            case "/silent":
                return self.server.over.wait(10)
            case "/missing":
                return self.send_error(404, "not\nhere")
            case "/broken":
                return self.wfile.write(b"no HTTP at all\r\n\r\n")
            case "/slow-headers":
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
                with contextlib.suppress(ConnectionError):
                    while not self.server.over.wait(0.05):
                        self.wfile.write(b"x")
                return
            case "/away":
                self.send_response(302)
                self.send_header("Location", self.server.to)
                return self.end_headers()
        self.send_response(200)
        if self.path != "/without-length":
            self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        data = {"/damaged": b"?" + DATA[1:], "/cut": DATA[:5000]}.get(self.path, DATA)
        if self.path == "/slow":
            for i in range(0, len(data), 1000):
                if self.server.over.wait(0.05):
                    return
                self.wfile.write(data[i : i + 1000])
        else:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.asked, server.over = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize("path", ["/good", "/without-length"])
def test_what_a_link_answers_is_fetched(server, path):
    assert files.fetch(server.url + path) == DATA
    assert server.asked[-1] == (path, "tinygif")


def test_a_fetch_stops_after_enough(server):
    data = files.fetch(server.url + "/good", most=100)
    assert 100 < len(data) and DATA.startswith(data)


def test_a_fetch_with_a_title_shows_how_far_it_is(server, capsys):
    files.fetch(server.url + "/good", title="digits")
    assert "digits: 100%" in capsys.readouterr().err
    files.fetch(server.url + "/good")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("path", "options", "says"), [
    ("/missing", {}, "404"),
    ("/broken", {}, "no HTTP at all"),
    ("/cut", {}, "cut short after 5000 of 10240 bytes"),
    ("/silent", dict(timeout=0.1), "timed out"),
    ("/slow", dict(longest=0.1), "too slow"),
])  # fmt: skip
def test_what_gives_no_file_is_an_oserror(server, path, options, says):
    with pytest.raises(OSError, match=says):
        files.fetch(server.url + path, **options)


@pytest.mark.parametrize("url", [NOWHERE, "no link at all", "http://no space.test/"])
def test_a_link_that_leads_nowhere_is_an_oserror(url):
    with pytest.raises(OSError):
        files.fetch(url)


def test_a_download_takes_the_first_link_that_has_the_file_whole(server, tmp_path, monkeypatch):
    path, real = tmp_path / "cache" / "digits.gz", files.fetch
    quick = lambda url, **options: real(url, **options | {"timeout": 0.1})  # noqa: E731
    monkeypatch.setattr(files, "fetch", quick)
    bad = [NOWHERE, *(server.url + name for name in ("/missing", "/cut", "/damaged", "/silent"))]
    server.asked.clear()
    files.download([*bad, server.url + "/good", server.url + "/never"], path, DIGEST)
    assert path.read_bytes() == DATA and [p.name for p in path.parent.iterdir()] == ["digits.gz"]
    assert [name for name, _ in server.asked][-2:] == ["/silent", "/good"]


@pytest.mark.parametrize(("name", "says"), [
    ("/damaged", "arrived damaged, its SHA-256 is not"), ("/cut", "cut short"),
    ("/missing", "404"),
])  # fmt: skip
def test_a_download_that_no_link_has_leaves_no_file(server, tmp_path, name, says):
    with pytest.raises(OSError, match=f"no link gave digits.gz: .*{says}"):
        files.download([server.url + name], tmp_path / "cache" / "digits.gz", DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_headers_that_come_too_slowly_are_not_waited_for(server):
    """Each byte comes within the time-out for one byte."""
    with pytest.raises(OSError, match="too slow"):
        files.fetch(server.url + "/slow-headers", longest=0.3, timeout=5.0)


# ---- where links out of data files may lead --------------------------------------------------


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.255.0.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1",
    "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::",
])  # fmt: skip
def test_private_and_reserved_addresses_are_not_public(monkeypatch, address):
    assert not files.is_public(address)
    answer = [(0, 0, 0, "", (address, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(PermissionError, match="host.test is .*, no public address"):
        files.public_addresses("host.test")


def test_addresses_of_the_internet_are_public(monkeypatch):
    addresses = ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "2002:5db8:d822::"]
    answer = [(0, 0, 0, "", (address, 0)) for address in ("10.0.0.1", *addresses, addresses[0])]
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
        assert files.public_addresses("host.test") == addresses
    assert files.public_addresses("93.184.216.34") == ["93.184.216.34"]
    for private in ("127.0.0.1", "2130706433", "localhost", "0x7f.1"):
        with pytest.raises(PermissionError):
            files.public_addresses(private)


@pytest.fixture
def hosts(monkeypatch):
    """Names in `known` have the addresses given there, as if public; `asked` were looked up."""
    hosts, public_addresses = SimpleNamespace(known={}, asked=[]), files.public_addresses

    def look_up(host):
        hosts.asked.append(host)
        return hosts.known[host] if host in hosts.known else public_addresses(host)

    monkeypatch.setattr(files, "public_addresses", look_up)
    return hosts


def test_the_address_that_is_connected_to_is_the_one_that_was_checked(server, hosts):
    """The name itself is unknown; so nobody asks for its address once more."""
    link = f"http://good:{server.server_port}/good"
    hosts.known["good"] = ["127.0.0.1"]
    assert files.fetch(link, public=True) == DATA and hosts.asked == ["good"]
    hosts.known["good"] = ["127.0.0.3", "127.0.0.1"]  # the first refuses
    assert files.fetch(link, public=True) == DATA


@pytest.mark.parametrize(("to", "says"), [
    ("http://127.0.0.2:{port}/good", "127.0.0.2, no public address"),
    ("http://2130706434:{port}/good", "127.0.0.2, no public address"),
    ("http://%31%32%37.0.0.2:{port}/good", "127.0.0.2, no public address"),
    ("//127.0.0.2:{port}/good", "127.0.0.2, no public address"),
    ("https://[::1]:{port}/good", "::1, no public address"),
    ("ftp://good:{port}/good", "unknown url type: ftp"),
    ("file:///etc/hostname", "302"),
])  # fmt: skip
def test_each_redirect_is_checked(server, hosts, to, says):
    port = server.server_port
    server.asked.clear()
    hosts.known["good"] = ["127.0.0.1"]
    server.to = to.format(port=port)
    with pytest.raises(OSError, match=says):
        files.fetch(f"http://good:{port}/away", public=True)
    assert [path for path, _ in server.asked] == ["/away"]


def test_redirects_that_may_be_followed_are(server, hosts):
    port = server.server_port
    server.to = f"http://other:{port}/good"
    hosts.known["good"] = hosts.known["other"] = ["127.0.0.1"]
    assert files.fetch(f"http://good:{port}/away", public=True) == DATA
    assert hosts.asked == ["good", "other"]
    server.to = f"http://127.0.0.2:{port}/good"  # a link that the person named may lead anywhere
    with pytest.raises(OSError) as error:  # but there nobody listens
        files.fetch(f"http://127.0.0.1:{port}/away")
    assert "public" not in str(error.value)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/hostname", "data:,x"])
def test_only_links_of_the_web_are_opened(url):
    """Also where the person names them."""
    with pytest.raises(OSError, match="unknown url type"):
        files.fetch(url)


def test_a_proxy_of_the_person_may_be_private(server, hosts, monkeypatch):
    """It connects, so addresses are checked as far as they are known here."""
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    server.asked.clear()
    hosts.known["known.invalid"] = ["127.0.0.1"]
    links = ["http://unknown.invalid/good", "http://known.invalid/good"]
    for link in links:
        assert files.fetch(link, public=True) == DATA
    for private in ("http://127.0.0.2/good", "http://%31%32%37.0.0.2/good", "http://localhost/"):
        with pytest.raises(OSError, match="no public address"):
            files.fetch(private, public=True)
    assert [path for path, _ in server.asked] == links
