"""clips/sources.py: captions are found wherever a folder keeps them; no link stops a download.

Lesson 14.
"""

import http.server
import json
import threading
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygif import files, gif
from tinygif.clips import sources
from tinygif.clips.sources import Item, collect, download_gifs, file_name, play
from tinygif.errors import TinygifError
from tinygif.gif import GifError, encode_gif

CLIP = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
GIF = encode_gif(CLIP // 64 * 64, [100, 50, 30])


def put(folder, *names, data=GIF):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def captions(folder):
    return {item.name: item.captions for item in collect(folder)}


# ---- folders ---------------------------------------------------------------------------------


def test_a_text_file_beside_a_clip_has_a_caption_a_line(tmp_path):
    put(tmp_path, "b.gif", "deep/er/a.GIF", "none.gif")
    (tmp_path / "b.txt").write_bytes("\ufeffa cat\r\n\r\n  two   cats \na cat\n".encode())
    (tmp_path / "deep/er/a.txt").write_text("caf\u00e9 \u4eba \u2028 there", encoding="utf-8")
    assert captions(tmp_path) == {
        "b.gif": ("a cat", "two cats"),
        "deep/er/a.GIF": ("caf\u00e9 \u4eba there",),
        "none.gif": (),
    }
    assert collect(tmp_path)[0].path == tmp_path / "b.gif"


@pytest.mark.parametrize(("name", "text"), [
    ("captions.tsv", "a.gif\tone, \"two\"\nsub/b.gif\tthree\na.gif\tagain\n\nsub/b.gif\n"),
    ("captions.tsv", "file\tcaption\na.gif\tone, \"two\"\na.gif\tagain\nsub/b.gif\tthree\n"),
    ("captions.csv", 'a.gif,"one, ""two"""\nsub/b.gif,three\r\na.gif,again\n'),
    ("captions.csv", 'file_name,text\na.gif,one, "two"\na.gif,again\nsub/b.gif,three'),
    ("metadata.jsonl", '{"file_name": "a.gif", "text": ["one, \\"two\\"", "again"]}\n\n'
                       '{"file_name": "sub/b.gif", "text": "three", "more": 1}\n'),
])  # fmt: skip
def test_tables_tell_captions(tmp_path, name, text):
    put(tmp_path, "a.gif", "sub/b.gif")
    (tmp_path / name).write_text(text)
    assert captions(tmp_path) == {"a.gif": ('one, "two"', "again"), "sub/b.gif": ("three",)}


def test_a_table_in_a_folder_below_counts_from_there_and_all_add_up(tmp_path):
    put(tmp_path, "sub/b.gif")
    (tmp_path / "sub/b.txt").write_text("beside")
    (tmp_path / "sub/captions.tsv").write_text("b.gif\tbelow")
    (tmp_path / "captions.csv").write_text("sub/b.gif,above")
    assert captions(tmp_path) == {"sub/b.gif": ("beside", "above", "below")}


def test_what_a_table_names_but_is_not_there_is_listed(tmp_path):
    put(tmp_path, "a.gif")
    (tmp_path / "captions.tsv").write_text("gone.gif\tnothing")
    assert [item.name for item in collect(tmp_path)] == ["a.gif", "gone.gif"]


@given(st.lists(st.text(max_size=8), max_size=4))
def test_any_caption_that_json_can_hold_comes_back_in_one_line(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    put(folder, "a.gif")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.gif", "text": texts}))
    whole = [" ".join(text.split()) for text in texts]
    assert captions(folder)["a.gif"] == tuple(dict.fromkeys(text for text in whole if text))


@pytest.mark.parametrize(("name", "data", "says"), [
    ("metadata.jsonl", b'{"file_name": "a.gif"\n', "metadata.jsonl, line 1"),
    ("metadata.jsonl", b'\n["a.gif", "b"]', "metadata.jsonl, line 2"),
    ("metadata.jsonl", b'{"text": "b"}', "line 1, got"),
    ("metadata.jsonl", b'{"file_name": "a.gif", "text": 3}', "line 1, got"),
    ("captions.tsv", b"a.gif\tcaf\xe9", "in UTF-8"),
    ("captions.csv", b'a.gif,"' + b"x" * 200_000 + b'"', "expected a table of file and caption"),
    ("a.txt", b"\xff\xfe", "in UTF-8, got"),
])  # fmt: skip
def test_broken_captions_name_the_place(tmp_path, name, data, says):
    put(tmp_path, "a.gif")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TinygifError, match=says):
        collect(tmp_path)


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(TinygifError, match=r"found no clip in .*expected files ending in .gif"):
        collect(tmp_path)
    with pytest.raises(TinygifError, match="got .*nowhere, which is not there"):
        collect(tmp_path / "nowhere")
    put(tmp_path, "a.gif")
    with pytest.raises(TinygifError, match="expected a folder of clips, TGIF's .tsv"):
        collect(tmp_path / "a.gif")


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.webp", "a.apng"])
def test_other_pictures_play_with_their_delays_on_white(tmp_path, name):
    frames = [Image.new("RGBA", (6, 4), rgba) for rgba in [(255, 0, 0, 255), (0, 0, 255, 0)]]
    kind = {"webp": {"lossless": True}, "apng": {"disposal": 1}}[name[2:]]
    frames[0].save(tmp_path / name, {"webp": "WEBP", "apng": "PNG"}[name[2:]], save_all=True,
                   append_images=frames[1:], duration=[80, 250], **kind)  # fmt: skip
    (red, first), (white, second) = play(tmp_path / name)
    assert (first, second) == (80, 250)
    assert (red == [255, 0, 0]).all() and (white == 255).all() and red.shape == (4, 6, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch, name):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    monkeypatch.setattr(sources, "MAX_PIXELS", 47)
    with pytest.raises(GifError, match="^too large: 2 frames of 6x4, accepted are"):
        next(play(tmp_path / name))
    monkeypatch.setattr(sources, "MAX_PIXELS", 48)
    monkeypatch.setattr(sources, "MAX_FRAMES", 1)
    with pytest.raises(GifError, match="^too large: 2 frames of 6x4, accepted are"):
        next(play(tmp_path / name))
    monkeypatch.setattr(sources, "MAX_FRAMES", 2)
    assert len(list(play(tmp_path / name))) == 2
    monkeypatch.setattr(sources, "MAX_BYTES", 3)
    monkeypatch.setattr(gif, "MAX_BYTES", 3)
    with pytest.raises(GifError, match="^too large: .* bytes"):
        next(play(tmp_path / name))


def test_videos_play_with_their_rate(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    levels = np.arange(0, 240, 20, dtype=np.uint8)
    gif.write(tmp_path / "a.mp4", np.broadcast_to(levels[:, None, None, None], (12, 16, 24, 1)), 15)
    frames, delays = zip(*play(tmp_path / "a.mp4"))
    assert np.abs(np.mean(frames, (1, 2, 3)) - levels).max() < 8 and frames[0].shape == (16, 24, 3)
    assert sum(delays) == 800


# ---- MSR-VTT ---------------------------------------------------------------------------------


def msrvtt(path, validate="validate"):
    splits = {"video7": "train", "video9": validate, "video10": "test"}
    videos = [{"video_id": name, "id": 1, "split": split, "category": 2, "url": "http://x",
               "start time": 1.5, "end time": 2.5} for name, split in splits.items()]  # fmt: skip
    sentences = [{"caption": f"a {name} number {k}", "video_id": name, "sen_id": k}
                 for k in range(20) for name in splits]  # fmt: skip
    path.write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))


@pytest.mark.parametrize("spelt", ["validate", "val"])
def test_msrvtt_has_twenty_captions_a_video_and_a_split_of_two_spellings(tmp_path, spelt):
    msrvtt(tmp_path / "info.json", spelt)
    items = collect(tmp_path / "info.json", tmp_path / "mp4")
    assert [item.name for item in items] == ["video10", "video7", "video9"]
    assert items[1].path == tmp_path / "mp4" / "video7.mp4"
    assert items[1].captions == tuple(f"a video7 number {k}" for k in range(20))
    for asked in ("val", "validate"):
        one = collect(tmp_path / "info.json", split=asked)
        assert [item.path for item in one] == [tmp_path / "video9.mp4"]
    with pytest.raises(TinygifError, match=f"expected a split of .*'{spelt}'.*, got 'all'"):
        collect(tmp_path / "info.json", split="all")


def test_other_json_is_refused(tmp_path):
    for text in ("{}", "[]", "{", '{"videos": [{}], "sentences": []}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(TinygifError, match="expected MSR-VTT's JSON with videos and sentences"):
            collect(tmp_path / "a.json")


# ---- TGIF ------------------------------------------------------------------------------------


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
        if name in ("404", "410", "500"):
            return self.send_error(int(name))
        if name in ("moved", "loop"):
            self.send_response(301)
            self.send_header("Location", "/loop_1.gif" if name == "loop" else "/ok_target.gif")
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
    monkeypatch.setattr(sources, "TIMEOUT", 0.3)
    monkeypatch.setattr(sources, "LONGEST", 0.5)
    monkeypatch.setattr(sources, "RATE", 1000.0)
    monkeypatch.setattr(sources, "MAX_BYTES", 4000)
    with Quiet(("127.0.0.1", 0), Server) as running:
        serve = partial(running.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


TEMPORARY = {
    "slow": "no answer: timed out", "drip": "no answer: too slow",
    "hangup": "no answer: Remote end closed connection without response",
    "cut": f"no answer: cut short after {len(GIF)} of {len(GIF) + 100} bytes",
    "500": "dead link: 500",
}  # fmt: skip
FINAL = {
    "404": "dead link: 404", "410": "dead link: 410", "loop": "dead link: 301",
    "html": "dead link: what came is no GIF", "huge": "too large: more than 4000 bytes",
}  # fmt: skip
FINE = ("ok", "moved", "busy")


def test_every_link_is_a_gif_or_a_reason(server, tmp_path):
    urls = {name: f"{server}{name}_1.gif" for name in (*TEMPORARY, *FINE, *FINAL)}
    failures = download_gifs(list(urls.values()), tmp_path)
    assert failures == {urls[name]: why for name, why in (TEMPORARY | FINAL).items()}
    for name in FINE:
        assert (tmp_path / file_name(urls[name])).read_bytes() == GIF
    assert {path.suffix for path in tmp_path.iterdir()} == {".gif", ".jsonl"}
    tries = {name: Server.seen[f"/{name}_1.gif"] for name in urls}
    assert [tries[name] for name in ("slow", "cut", "busy", "500")] == [3] * 4
    assert [tries[name] for name in ("ok", "404", "html", "huge")] == [1] * 4

    with open(tmp_path / "manifest.jsonl", "a") as manifest:  # as a kill may leave it
        manifest.write('{"url": "http://x')
    Server.seen.clear()
    again = download_gifs(list(urls.values()), tmp_path)
    assert again == failures  # what came, and what is dead, is not asked for again
    assert set(Server.seen) == {f"/{name}_1.gif" for name in TEMPORARY}


def test_without_a_network_it_does_not_try_every_link(server, tmp_path):
    urls = [f"{server}500_{i}.gif" for i in range(200)]
    with pytest.raises(TinygifError, match="50 links one after another .*dead link: 500. Is there"):
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
    assert 0 < len(before) <= 5 and not list(tmp_path.glob(".*"))
    monkeypatch.setattr(files.os, "fsync", sync)
    Server.seen.clear()
    assert download_gifs(urls, tmp_path) == {}
    assert len(Server.seen) == 12 - len(before)


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
    monkeypatch.setattr(sources, "RATE", 4.0)
    monkeypatch.setattr(sources.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    times = [sources.wait_for_turn() or now[0] for _ in range(9)]
    assert np.allclose(np.diff(times), 0.25) and times[-1] - 100 == pytest.approx(2.25)


def test_only_one_thread_waits_at_a_time(monkeypatch):
    """Else 8 threads would send 8 times as many requests."""
    waiting, most = [], []

    def sleep(seconds):
        waiting.append(seconds)
        most.append(len(waiting))
        threading.Event().wait(0.005)
        waiting.pop()

    monkeypatch.setattr(sources.time, "sleep", sleep)
    threads = [threading.Thread(target=sources.wait_for_turn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
