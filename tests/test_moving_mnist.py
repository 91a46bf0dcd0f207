"""moving_mnist.py: captions are true of the pixels, and no download can go wrong unseen.

Lesson 14.
"""

import gzip
import hashlib
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygif import files, moving_mnist
from tinygif.config import DataConfig, TextConfig
from tinygif.data import COLORS
from tinygif.errors import TinygifError
from tinygif.moving_mnist import (
    DIGIT_COLORS,
    DIRECTIONS,
    HELD_OUT,
    NAMES,
    SHA256,
    WORDS,
    MovingMNIST,
    bounce,
    bundled_digits,
    draw_digit,
    load_digits,
    names_of,
    read_mnist,
    sentences,
    wordings,
)

indices = st.integers(0, 2**40)
SENTENCE = re.compile(
    r"((?P<article>an?|the) )?((?P<color>white|red|green|blue|yellow|purple) )?((digit|number) )?"
    r"(?P<digit>\w+)( (?P<motion>(is )?(moving|going|moves|goes|sliding|slides) "
    r"(?P<direction>(to the (upper |lower )?|up |down )?(left|right)|(up|down)(wards)?)"
    r"( (?P<speed>slowly|quickly|fast))?"
    r"|(?P<still>standing still|stands still|staying still|(is )?not moving)))?"
)
HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "upper": (0, -1),
            "lower": (0, 1), "upwards": (0, -1), "downwards": (0, 1), "to": (0, 0), "the": (0, 0)}
PACE = {"slowly": 1 / 64, None: 1 / 32, "quickly": 1 / 16, "fast": 1 / 16}  # sides a frame


@pytest.fixture(scope="module", autouse=True)
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Bundled digits for this module's data sets, which outlive a test's own `offline`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving_mnist, "MIRRORS", ("http://127.0.0.1:9/",))
        patch.setenv("TINYGIF_CACHE", str(tmp_path_factory.mktemp("none")))
        yield


@pytest.fixture(scope="module")
def gray() -> MovingMNIST:
    return MovingMNIST(DataConfig())


@pytest.fixture(scope="module")
def colored() -> MovingMNIST:
    return MovingMNIST(DataConfig(channels=3, size=64, frames=20))


def read_sentence(text: str) -> dict[str, str | None]:
    """The parts of a caption of one digit, read by a grammar of the test's own."""
    found = SENTENCE.fullmatch(text)
    assert found, text
    return found.groupdict()


def heading(parts: dict[str, str | None]) -> np.ndarray:
    """(columns, rows) of a direction in words."""
    words = (parts["direction"] or "").split()
    return np.sum([HEADINGS[word] for word in words], axis=0) if words else np.zeros(2)


def box(frame: np.ndarray) -> tuple[int, int, int, int]:
    """left, top, right, bottom of what is not black in (h, w)."""
    rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def crop(frame: np.ndarray) -> np.ndarray:
    left, top, right, bottom = box(frame)
    return frame[top:bottom, left:right]


def assert_true(data: MovingMNIST, index: int) -> None:
    """Whether the one digit of a clip is, moves and looks as its caption says."""
    clip, text = data[index]
    parts, pixels = read_sentence(text), clip.max(-1)
    corner = np.array([box(frame)[:2] for frame in pixels])
    strokes = {crop(frame).tobytes() + bytes(crop(frame).shape) for frame in pixels}
    assert len(strokes) == 1  # the same digit, never flipped on the way, never cut by an edge
    size, frames = data.config.size, data.config.frames
    room, pace = size - data.images.shape[1], PACE[parts["speed"]] * size
    if parts["motion"] is None:  # then it may also begin near a wall
        assert np.abs(np.diff(corner, axis=0)).max(initial=0) <= PACE["fast"] * size + 1
        return
    ahead = min(frames // 2, int(room / pace))  # frames before the first wall
    moved = corner[: ahead + 1] - corner[0]
    want = heading(parts) * pace * np.arange(ahead + 1)[:, None]
    assert np.abs(moved - want).max() <= 1
    assert parts["still"] is None or (clip == clip[0]).all()
    assert parts["still"] or heading(parts) @ moved[-1] > 0
    sideways = corner[:, heading(parts) == 0]
    assert (sideways == sideways[0]).all()


# ---- clips -----------------------------------------------------------------------------------


@given(indices)
def test_captions_are_true_of_gray_clips(gray, index):
    clip, text = gray[index]
    assert clip.shape == (16, 32, 32, 1) and clip.dtype == np.uint8
    assert_true(gray, index)


@given(indices)
def test_captions_are_true_of_large_coloured_clips(colored, index):
    clip, text = colored[index]
    assert clip.shape == (20, 64, 64, 3) and clip.dtype == np.uint8
    assert_true(colored, index)


@given(indices)
def test_the_digit_is_the_one_it_is_called(gray, index):
    clip, text = gray[index]
    called = read_sentence(text)["digit"]
    digit = NAMES.index(called) if called in NAMES else int(called)
    shown = crop(clip[0, :, :, 0])
    same = [int(label) for image, label in zip(gray.images, gray.labels, strict=True)
            if np.array_equal(crop(image), shown)]  # fmt: skip
    assert digit in same


@given(indices)
def test_the_color_is_the_one_it_is_called(colored, index):
    clip, text = colored[index]
    pixel = clip.reshape(-1, 3)[clip.max(-1).argmax()]
    r, g, b = map(int, pixel)
    called = read_sentence(text)["color"]
    assert max(r, g, b) > 150
    assert {
        "white": r == g == b,
        "red": r > 2 * max(g, b),
        "green": g > 2 * max(r, b),
        "blue": b > 1.5 * max(r, g),
        "yellow": min(r, g) > 2 * b,
        "purple": min(r, b) > 1.5 * g,
    }[called]
    assert np.abs(pixel - np.array(COLORS[called]) * pixel.max() / max(COLORS[called])).max() <= 2


def test_digits_have_every_colour_but_that_of_the_background():
    assert set(DIGIT_COLORS) == set(COLORS) - {"black"}


@given(indices)
def test_captions_keep_to_their_words(gray, index):
    text = gray[index][1]
    assert set(text.split()) <= set(WORDS)
    assert read_sentence(text)["color"] is None


@given(indices)
def test_an_index_is_a_clip(gray, index):
    again = MovingMNIST.__new__(MovingMNIST)
    again.__dict__.update(gray.__dict__)
    for a, b in zip(gray[index], again.example(index, 16), strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(gray[index][0], gray[index + 1][0])


@given(indices, st.sampled_from([1, 4, 15, 40]))
def test_an_example_is_the_clip_of_a_data_set_of_that_length(gray, index, frames):
    """The same digit, under the same caption, which is true of it."""
    data = MovingMNIST.__new__(MovingMNIST)
    data.__dict__.update(gray.__dict__, config=replace(gray.config, frames=frames))
    clip, text = gray.example(index, frames)
    assert clip.shape == (frames, 32, 32, 1) and text == gray[index][1]
    assert np.array_equal(clip, data[index][0]) and text == data[index][1]
    assert np.array_equal(crop(clip[0, :, :, 0]), crop(gray[index][0][0, :, :, 0]))
    if frames > 1:
        assert_true(data, index)


def test_clips_stay_what_they_were():
    """Checkpoints were trained on these clips, and numbers in lessons were measured on them."""
    data, digest = MovingMNIST(DataConfig(digits=2, mnist_dir="bundled")), hashlib.sha256()
    for i in range(20):
        for clip, text in (data[i], data.example(i, 4)):
            digest.update(clip.tobytes() + text.encode())
    assert digest.hexdigest() == "d9d1920a0649b729bf60bfed0d4763662558e6b47a2794c1a55eeaca1f1c2ab8"


def test_every_word_comes_up():
    said = set()
    for channels in (1, 3):
        data = MovingMNIST(DataConfig(channels=channels, size=16, frames=2, digits=2))
        said |= {word for i in range(400) for word in data[i][1].split()}
    assert said == set(WORDS) == set(data.words) and WORDS == sorted(WORDS)
    assert data.size is None


def test_some_clips_have_two_digits_and_both_are_told():
    data = MovingMNIST(DataConfig(digits=2, digit_size=8))
    counts, two_lit = set(), False
    for i in range(60):
        clip, text = data[i]
        parts = [read_sentence(part) for part in text.split(" and ")]
        counts.add(len(parts))
        if all(part["still"] for part in parts):
            assert (clip == clip[0]).all()
        lit = (clip[..., 0] > 0).reshape(16, -1).sum(1).max()
        assert lit <= 64 * len(parts)
        two_lit = len(parts) == 2 and lit > 64 or two_lit
    assert counts == {1, 2} and two_lit


def test_a_digit_alone_may_begin_anywhere(gray):
    """Of clips whose caption says nothing of motion, many turn round in their first half."""
    turned = {True: [], False: []}
    for i in range(1500):
        clip, text = gray[i]
        corner = np.array([box(frame)[:2] for frame in clip.max(-1)])
        step = np.diff(corner[:8], axis=0)
        turns = (step.max(0) > 0) & (step.min(0) < 0)
        turned[read_sentence(text)["motion"] is None].append(turns.any())
    assert np.mean(turned[True]) > 0.15 and not any(turned[False])
    assert 0.12 < len(turned[True]) / 1500 < 0.18


def test_where_two_digits_meet_the_brighter_wins():
    clip = np.zeros((2, 4, 4, 1), np.uint8)
    draw_digit(clip, np.full((2, 2, 1), 200, np.uint8), np.array([[0, 0], [0, 0]]))
    draw_digit(clip, np.full((2, 2, 1), 255, np.uint8), np.array([[1, 1], [2, 2]]))
    draw_digit(clip, np.full((2, 2, 1), 100, np.uint8), np.array([[0, 0], [0, 0]]))
    assert clip[0, :, :, 0].tolist() == [
        [200, 200, 0, 0], [200, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]
    ]  # fmt: skip


def test_digits_are_as_bright_as_they_were(gray):
    brightest = [gray[i][0].max() for i in range(100)]
    assert min(brightest) > 180 and max(brightest) == 255


@given(st.floats(-1e3, 1e3), st.floats(-4, 4), st.integers(0, 40))
def test_a_bounce_stays_in_the_box_and_only_turns(start, pace, room):
    path = bounce(start + pace * np.arange(30), room)
    assert path.min() >= 0 and path.max() <= room
    assert np.abs(np.diff(path)).max() <= abs(pace) + 1


def test_a_bounce_reflects():
    assert bounce(np.arange(0.0, 13.0), 4).tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert bounce(np.arange(1.0, -4.0, -1), 4).tolist() == [1, 0, 1, 2, 3]


@pytest.mark.parametrize("side", [3, 29, 40])
def test_a_digit_that_cannot_move_is_refused(side):
    with pytest.raises(TinygifError, match=f"digit_size from 4 to 28, .*, got {side}"):
        MovingMNIST(DataConfig(digit_size=side))


@pytest.mark.parametrize("side", [8, 28])
def test_captions_are_true_of_other_digit_sizes(side):
    data = MovingMNIST(DataConfig(digit_size=side))
    for index in range(100):
        assert_true(data, index)


# ---- which pairs, which digits ---------------------------------------------------------------


def pairs(**options: bool) -> set[tuple[int, str]]:
    """The digit-direction pairs of many captions."""
    data, found = MovingMNIST(DataConfig(size=8, frames=1, **options)), set()
    for i in range(1800):
        parts = read_sentence(data[i][1])
        if parts["motion"] is None:
            continue
        called = parts["digit"]
        digit = NAMES.index(called) if called in NAMES else int(called)
        plain = {"upper": "up", "upwards": "up", "lower": "down", "downwards": "down"}
        words = (parts["direction"] or "still").removeprefix("to the ").split()
        found.add((digit, " ".join(plain.get(word, word) for word in words)))
    return found


def test_held_out_pairs_are_kept_out_unless_asked_for():
    every = {(digit, direction) for digit in range(10) for direction in DIRECTIONS}
    assert set(HELD_OUT) < every and len(set(HELD_OUT)) == len(HELD_OUT)
    assert pairs(hold_out=True) == every - set(HELD_OUT)
    assert pairs(hold_out=False) == every


@pytest.mark.parametrize("said", [
    (8, "up left", "quickly", "red"), (3, "still", "", ""), (7, "left", "", ""),
    (0, "down", "slowly", "purple"),
])  # fmt: skip
def test_captions_say_one_thing_in_few_of_all_its_wordings(said):
    usual, others = sentences(*said)
    found = wordings(*said)
    assert len(set(found)) == len(found)
    assert set(found) < {*usual, *others} and len({*usual, *others}) == len(usual) + len(others)
    assert len({*found} & {*usual}) == min(8, len(usual)) and len({*found} & {*others}) == 8
    assert set(" ".join(usual + others).split()) <= set(WORDS)
    article = "an" if said[0] == 8 and not said[3] else "a"
    assert {text.split()[0] for text in usual} == {article}
    assert {read_sentence(text)["article"] for text in others} == {"a", "an", "the", None}


def test_the_longest_caption_of_two_coloured_digits_can_be_read():
    texts = [text for way in DIRECTIONS for speed in ("", "slowly", "quickly")
             for part in sentences(8, way, speed, "purple") for text in part]  # fmt: skip
    longest = max(len(text.split()) for text in texts)
    assert longest == 11 and 2 * longest + 1 <= TextConfig().max_tokens


@pytest.mark.parametrize("hold_out", [True, False])
def test_all_sentences_about_one_digit_are_listed(hold_out):
    data = MovingMNIST(DataConfig(hold_out=hold_out, frames=1, mnist_dir="bundled"))
    captions = set(data.captions)
    assert {data[i][1] for i in range(300)} < captions
    names = {text for digit in range(10) for text in names_of(digit)}
    assert len(names) == 10 * 2 * 8 and names < captions
    assert len(captions - names) == 10 * (24 * 16 + 14) - hold_out * (8 * 3 * 16 + 14)
    assert not hold_out == any(text in captions for text in wordings(4, "left", "slowly"))
    assert len({*MovingMNIST(DataConfig(channels=3, mnist_dir="bundled")).captions}) > 14_000


def test_train_and_test_digits_have_nothing_in_common():
    (train, labels), (test, others) = bundled_digits(False), bundled_digits(True)
    assert len(train) + len(test) == len(labels) + len(others) == 1797
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}
    assert set(labels) == set(others) == set(range(10))


def test_train_and_test_clips_differ(gray):
    test = MovingMNIST(gray.config, held_out=True)
    assert len(test.images) == 360 and len(gray.images) == 1437
    going = lambda data, i: read_sentence(data[i][1])["direction"]  # noqa: E731
    assert sum(going(test, i) == going(gray, i) for i in range(60)) < 30


# ---- MNIST in a folder -----------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """An array in MNIST's file format, zipped."""
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes(), mtime=0)


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
FILES = {
    name: idx(IMAGES if "images" in name else np.array([4, 0, 9], np.uint8)) for name in SHA256
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_folder_is_read_without_the_border(folder, capsys):
    images, labels, source = load_digits(str(folder))
    np.testing.assert_array_equal(images, IMAGES[:, 4:-4, 4:-4])
    assert labels.tolist() == [4, 0, 9] and source == str(folder)
    assert capsys.readouterr().err == ""


LABELS = "train-labels-idx1-ubyte.gz"
DAMAGE = {
    "cut": FILES[LABELS][:-9],
    "no such block": FILES[LABELS][:10] + b"\xff\xff\xff" + FILES[LABELS][13:],
    "another sum": FILES[LABELS][:-6] + b"?" + FILES[LABELS][-5:],
    "not zipped": b"<html>404</html>",
    "empty": b"",
    "another array": idx(np.zeros(7, np.uint8)),
    "no array": gzip.compress(b"hello"),
    "no digits": idx(np.array([4, 0, 77], np.uint8)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_answered_with_a_sentence(folder, kind):
    (folder / LABELS).write_bytes(DAMAGE[kind])
    with pytest.raises(TinygifError, match="expected the MNIST files .*, got: .*--mnist-dir at"):
        MovingMNIST(DataConfig(mnist_dir=str(folder)))


@pytest.mark.parametrize("place", ["nowhere", LABELS], ids=["absent", "a file"])
def test_an_absent_folder_is_answered_with_a_sentence(folder, place):
    with pytest.raises(TinygifError, match="expected the MNIST files .*, got: .*--mnist-dir at"):
        load_digits(str(folder / place))


def test_the_real_files_are_whole_and_their_captions_true(real_data):
    folder = real_data / "mnist"
    for name, digest in SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    train, labels = read_mnist(folder, test=False)
    assert train.shape == (60000, 20, 20) and len(labels) == 60000
    data = MovingMNIST(DataConfig(mnist_dir=str(folder)), held_out=True)
    assert data.images.shape == (10000, 16, 16)
    for index in range(50):
        assert_true(data, index)


# ---- MNIST from the network ------------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    """Serves FILES in a manner named by the first part of the path."""

    def do_GET(self):
        manner, name = self.path.strip("/").split("/")
        self.server.asked.append((manner, name))
        body = FILES[name] if manner != "changed" else FILES[name][:-1] + b"?"
        if manner == "garbage":
            return self.wfile.write(b"what?\r\n")
        self.send_response(404 if manner == "lost" else 200)
        if manner == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"ffff\r\n" + body
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:-9] if manner == "cut" else body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.asked = []
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def mirrors(server, monkeypatch, tmp_path):
    """Names the manners of the mirrors; the cache is a new folder, which it returns."""

    def use(*manners: str) -> Path:
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(moving_mnist, "MIRRORS", tuple(f"{url}/{m}/" for m in manners))
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
        monkeypatch.setattr(moving_mnist, "SHA256", digests)
        monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "cache"))
        server.asked.clear()
        return tmp_path / "cache" / "mnist"

    return use


BAD = ["lost", "cut", "changed", "chunked", "garbage"]


def test_a_download_is_kept_and_not_repeated(mirrors, server, capsys):
    cache = mirrors("good")
    for _ in range(2):
        images, labels, source = load_digits(None, test=True)
        np.testing.assert_array_equal(images, IMAGES[:, 4:-4, 4:-4])
        assert labels.tolist() == [4, 0, 9] and source == str(cache)
    assert sorted(server.asked) == sorted(("good", name) for name in FILES)
    assert {file.name: file.read_bytes() for file in cache.iterdir()} == FILES
    assert "bundled" not in capsys.readouterr().err


@pytest.mark.parametrize("manner", BAD)
def test_a_bad_download_leaves_the_bundled_digits_and_one_line(mirrors, capsys, manner):
    cache = mirrors(manner)
    images, _, source = load_digits(None)
    assert images.shape == (1437, 8, 8) and source == "bundled"
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MNIST:")]
    assert len(said) == 1 and "using the 1,797 bundled digits" in said[0]
    assert not cache.exists()


@pytest.mark.parametrize("manner", BAD)
def test_where_one_mirror_is_bad_the_next_one_serves(mirrors, server, manner):
    cache = mirrors(manner, "good")
    assert load_digits(None)[2] == str(cache)
    assert len(server.asked) == 8


@pytest.mark.parametrize("count", [2, 8])
def test_runs_that_start_together_get_the_same_digits(mirrors, server, capsys, count):
    """All wait until the first has them; nobody is left with the bundled ones."""
    cache = mirrors("good")
    starting, found = threading.Barrier(count), []

    def run():
        starting.wait()
        found.append(load_digits(None)[2])

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [str(cache)] * count and "bundled" not in capsys.readouterr().err
    assert sorted(server.asked) == sorted(("good", name) for name in FILES)
    assert {file.name: file.read_bytes() for file in cache.iterdir()} == FILES


PROCESS = """
import json, sys
from tinygif import moving_mnist
moving_mnist.MIRRORS, moving_mnist.SHA256 = json.loads(sys.argv[1])
print(moving_mnist.load_digits(None)[2])
"""


@pytest.mark.slow
def test_processes_that_start_together_get_the_same_digits(mirrors, server):
    cache = mirrors("good")
    words = json.dumps([moving_mnist.MIRRORS, moving_mnist.SHA256])
    children = [subprocess.Popen([sys.executable, "-c", PROCESS, words], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
                for _ in range(3)]  # fmt: skip
    said = [child.communicate() for child in children]
    assert [out.split("\n")[-2] for out, _ in said] == [str(cache)] * 3, said
    assert len(server.asked) == 4


def test_digits_that_are_there_need_no_lock(mirrors, monkeypatch):
    """The cache may be one that cannot be written to."""
    cache = mirrors("good")
    load_digits(None)
    monkeypatch.setattr(files, "lock", None)
    assert load_digits(None)[2] == str(cache)


def test_an_interrupted_download_is_gone_on_with(mirrors, server, tmp_path):
    cache = mirrors("good")
    cache.mkdir(parents=True)
    names = sorted(FILES)
    (cache / names[0]).write_bytes(FILES[names[0]])
    dead = 2**22 + 1  # no process has such a number
    (cache / f".{names[1]}.{socket.gethostname()}-{dead}-7.part").write_bytes(b"half of it")
    assert load_digits(None)[2] == str(cache)
    assert sorted(name for _, name in server.asked) == names[1:]
    assert {file.name: file.read_bytes() for file in cache.iterdir()} == FILES


def test_a_source_can_be_asked_for_again(mirrors, server, capsys):
    cache = mirrors("good")
    assert load_digits("bundled")[2] == "bundled" and not server.asked
    assert load_digits(load_digits(None)[2])[2] == str(cache) and len(server.asked) == 4
    assert "MNIST:" not in capsys.readouterr().err


def test_without_a_network_one_line_says_so(offline, capsys):
    images, _, source = load_digits(None)
    said = capsys.readouterr()
    assert source == "bundled" and said.out == "" and images.max() == 255
    assert said.err.count("\n") == 1 and said.err.startswith("MNIST: no download (")


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(mirrors, tmp_path):
    mirrors("good")
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert load_digits(None)[2] == "bundled"


def test_a_full_disk_is_no_reason_to_stop(mirrors, monkeypatch, capsys):
    def full(file):
        raise OSError(28, "No space left on device")

    cache = mirrors("good")
    monkeypatch.setattr(files.os, "fsync", full)
    assert load_digits(None)[2] == "bundled" and list(cache.iterdir()) == []
    assert "No space left on device" in capsys.readouterr().err
