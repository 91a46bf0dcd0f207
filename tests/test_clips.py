"""clips/: the same bytes however they were made, every file kept or skipped with a reason.

Lesson 14.
"""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygif import files, gif
from tinygif.clips import (
    ClipFolder,
    Settings,
    prepare,
    prepare_clips,
    read_clip,
    read_report,
    read_rows,
    show_clips,
    sources,
    statistics,
)
from tinygif.clips.__main__ import Prepare, Show, main
from tinygif.clips.prepare import map_clips
from tinygif.clips.sources import Item
from tinygif.config import DataConfig
from tinygif.errors import TinygifError
from tinygif.gif import read_gif, write_gif

SMALL = Settings(size=8, frames=4)
PARTS = ("clips.npy", "captions.jsonl", "report.json")


def make(folder: Path, count: int = 10, broken: bool = True) -> Path:
    """A folder of clips of two colours, some captions, and some files that cannot be kept."""
    folder.mkdir(parents=True)
    for i in range(count):
        clip = np.zeros((3, 12, 10, 1), np.uint8)
        clip[:, i % 12, :5], clip[1:, :, i % 10] = 255, 100
        write_gif(folder / f"{i:02d}.gif", clip if i else clip[:1].repeat(2, 0))
        (folder / f"{i:02d}.txt").write_text(f"clip {i}\nthe number {i}")
    if broken:
        data = (folder / "01.gif").read_bytes()
        (folder / "cut.gif").write_bytes(data[:-40])
        (folder / "html.gif").write_text("<html>")
        (folder / "bomb.gif").write_bytes(data[:6] + b"\x60\xea\x60\xea" + data[10:])
        (folder / "many.gif").write_bytes(data[:-1] + data[data.index(b"!\xf9") : -1] * 1000 + b";")
        (folder / "captions.tsv").write_text("gone.gif\tnowhere")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make(tmp_path_factory.mktemp("source") / "gifs")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(prepare, "PART", 4)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """What a prepare that nothing disturbed makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "PART", 4)
        return prepare_clips(source, tmp_path_factory.mktemp("whole") / "set", SMALL, workers=1)


def same(out: Path, whole: Path) -> bool:
    assert sorted(path.name for path in out.iterdir()) == sorted(PARTS)
    return all((out / name).read_bytes() == (whole / name).read_bytes() for name in PARTS)


# ---- one file --------------------------------------------------------------------------------


def steps(path: Path, delays: list[int], side: int = 4) -> Path:
    """Frame k is all of gray level 10 k."""
    levels = 10 * np.arange(len(delays), dtype=np.uint8)
    shape = (len(delays), side, side, 1)
    write_gif(path, np.broadcast_to(levels[:, None, None, None], shape), delays=delays)
    return path


@given(st.lists(st.integers(2, 90), min_size=1, max_size=9), st.integers(1, 20))
def test_the_whole_clip_is_kept_by_its_delays(tmp_path_factory, hundredths, frames):
    """Not its first frames, no black after its end."""
    delays = [10 * d for d in hundredths]
    path = steps(tmp_path_factory.mktemp("clip") / "a.gif", delays)
    clip, times = read_clip(path, Settings(size=2, frames=frames))
    player = np.repeat(np.arange(len(hundredths)), hundredths)
    expected = [10 * player[k * len(player) // frames] for k in range(frames)]
    assert clip[:, 0, 0, 0].tolist() == expected and (clip == clip[:, :1, :1, :1]).all()
    assert times == delays


def test_a_window_lies_in_the_middle_and_short_clips_begin_again(tmp_path):
    path = steps(tmp_path / "a.gif", [100] * 10)
    level = lambda frames, fps: (  # noqa: E731
        read_clip(path, Settings(size=2, frames=frames, fps=fps))[0][:, 0, 0, 0] // 10
    ).tolist()
    assert level(4, 10) == [3, 4, 5, 6]
    assert level(2, 5) == [3, 5]
    assert level(10, 10) == list(range(10))
    assert level(12, 10) == [*range(10), 0, 1]
    assert level(4, 2.5) == [0, 4, 8, 2]


def test_crops_are_centred_and_letterboxes_white(tmp_path):
    wide = np.zeros((1, 8, 24, 3), np.uint8)
    wide[:, :, 8:16] = 120, 60, 30
    write_gif(tmp_path / "a.gif", wide)
    square, _ = read_clip(tmp_path / "a.gif", Settings(size=4, frames=1))
    assert np.abs(square[:, :, 1:3].astype(int) - [120, 60, 30]).max() <= 2
    assert np.abs(square.astype(int) - [120, 60, 30]).max() < 20  # a little of what is beyond
    boxed, _ = read_clip(tmp_path / "a.gif", Settings(size=24, frames=1, crop="letterbox"))
    assert (boxed[0, :8] == 255).all() and (boxed[0, 16:] == 255).all()
    np.testing.assert_array_equal(boxed[0, 8:16], wide[0])


def test_fine_stripes_turn_gray_when_they_shrink(tmp_path):
    """Without antialiasing they would stay black or white."""
    stripes = np.zeros((1, 64, 64, 1), np.uint8)
    stripes[:, :, ::2] = 255
    write_gif(tmp_path / "a.gif", stripes)
    clip, _ = read_clip(tmp_path / "a.gif", Settings(size=8, frames=1))
    assert np.abs(clip[:, :, 1:-1].astype(int) - 127).max() < 12


def test_transparency_becomes_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 2, 4))
    image.save(tmp_path / "a.gif")
    clip, _ = read_clip(tmp_path / "a.gif", Settings(size=4, frames=1))
    assert (clip[0, :, :2] == [255, 0, 0]).all() and (clip[0, :, 2:] == 255).all()


@pytest.mark.parametrize("wrong", [{"size": 0}, {"frames": 0}, {"fps": 0}, {"fps": 51}])
def test_settings_that_make_nothing_are_refused(wrong):
    with pytest.raises(TinygifError, match="expected size and frames of at least 1, 0 < fps <= 50"):
        Settings(**wrong)


def test_counts_below_one_are_refused(whole, tmp_path):
    for wrong in ({"limit": 0}, {"workers": -1}):
        with pytest.raises(TinygifError, match="of at least 1, got"):
            prepare_clips(tmp_path, tmp_path / "set", SMALL, **wrong)
    with pytest.raises(TinygifError, match="expected count of at least 1, got 0"):
        show_clips(whole, tmp_path / "a.gif", 0)


def test_a_long_gif_needs_little_memory(tmp_path):
    """600 frames are 118 MB at this size; 16 of them are 3."""
    path = steps(tmp_path / "a.gif", [20 + 10 * (k % 2) for k in range(600)], side=2)
    tracemalloc.start()
    clip, delays = read_clip(path, Settings(size=256, frames=16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clip.nbytes == 16 * 256 * 256 * 3 and len(delays) == 600
    assert peak < 4 * clip.nbytes


# ---- all files -------------------------------------------------------------------------------


def test_every_file_is_kept_or_skipped_with_a_reason(source, whole):
    report, rows = read_report(whole), read_rows(whole)
    assert report["kept"] == 10 and report["skipped"] == 5
    assert report["settings"] == asdict(SMALL)
    assert report["reasons"] == {"too large": 2, "broken": 1, "not a GIF": 1, "not found": 1}
    skips = {name: why.partition(":")[0] for name, why in report["skips"].items()}
    assert skips == {"bomb.gif": "too large", "cut.gif": "broken", "gone.gif": "not found",
                     "html.gif": "not a GIF", "many.gif": "too large"}  # fmt: skip
    assert "60000x60000" in report["skips"]["bomb.gif"] and str(source) not in str(report)
    assert [row["name"] for row in rows] == [f"{i:02d}.gif" for i in range(10)]
    assert rows[3]["captions"] == ["clip 3", "the number 3"] and rows[3]["duration"] == 300
    assert [row["static"] for row in rows] == [True] + [False] * 9
    array = np.load(whole / "clips.npy", mmap_mode="r")
    assert array.shape == (10, 4, 8, 8, 3) and array.dtype == np.uint8
    for i in range(10):
        np.testing.assert_array_equal(array[i], read_clip(source / f"{i:02d}.gif", SMALL)[0])


@pytest.mark.slow
def test_more_workers_make_the_same_bytes(source, whole, tmp_path):
    assert same(prepare_clips(source, tmp_path / "set", SMALL, workers=2), whole)


def test_a_part_of_large_clips_holds_few(source, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "PART_BYTES", 2 * 4 * 8 * 8 * 3)
    monkeypatch.setattr(prepare, "join", None)
    with pytest.raises((TypeError, TinygifError)):
        prepare_clips(source, tmp_path / "set", SMALL, workers=1)
    parts = sorted((tmp_path / "set" / ".tinygif-preparing").glob("*.npz"))
    assert len(parts) == 8 and len(np.load(parts[0])["clips"]) <= 2


def test_as_many_workers_as_cores_that_may_be_used(source, tmp_path, monkeypatch):
    """Up to a bound, and no more than there is work for."""
    counts = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, *_, **__):
            counts.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(prepare, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(prepare, "PART", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 512)
    for cores in (1, 2, 300):
        may_use = set(range(cores))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, x=may_use: x, raising=False)
        prepare_clips(source, tmp_path / f"{cores}", SMALL)
    assert counts == [1, 2, 2]
    many = [Item(f"{i}.gif", None, (), "not found") for i in range(500)]
    prepare.decode(many, SMALL, tmp_path, "key", None)
    assert counts[-1] == prepare.MAX_WORKERS


def test_who_decodes_imports_no_jax():
    """Which would take 190 MB in each worker."""
    code = "import sys; import tinygif.clips.prepare; sys.exit('jax' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


SCRIPT = """
import sys
from pathlib import Path
with open(sys.argv[3], "a") as log:
    print(__name__, file=log)
from tinygif import clips
clips.prepare.PART = 4
if __name__ == "__main__":
    clips.prepare_clips(Path(sys.argv[1]), Path(sys.argv[2]), clips.Settings(8, 4), workers=2)
"""


@pytest.mark.slow
def test_workers_do_not_run_the_script_again(source, whole, tmp_path):
    """A script such as train.py imports JAX."""
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, tmp_path / "script.py", source, tmp_path / "set", tmp_path / "log"],
        check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert (tmp_path / "log").read_text() == "__main__\n" and same(tmp_path / "set", whole)


WRITES = 4 + 3  # parts, then the array, captions, and the report


@pytest.mark.parametrize("when", range(WRITES))
@pytest.mark.parametrize("after", [False, True])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    source, whole, tmp_path, monkeypatch, when, after
):
    """Stopped before or after a file takes its place."""
    replace, left = os.replace, [when]

    def stop(part, path):
        left[0] -= 1
        if left[0] >= 0 or after:
            replace(part, path)
        if left[0] < 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_clips(source, tmp_path / "set", SMALL, workers=1)
    assert (tmp_path / "set" / "report.json").exists() == (after and when == WRITES - 1)
    assert not list((tmp_path / "set").rglob("*.part"))
    monkeypatch.setattr(files.os, "replace", replace)
    seen = []
    monkeypatch.setattr(
        prepare, "read_clip", lambda path, s: seen.append(path) or read_clip(path, s)
    )
    prepare_clips(source, tmp_path / "set", SMALL, workers=1)
    assert len(seen) <= max(0, 15 - 4 * (when + after))  # what was done is not done again
    assert same(tmp_path / "set", whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from tinygif import clips, files
clips.prepare.PART, replace, left = 4, os.replace, [int(sys.argv[3])]
def kill(part, path):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, path)
files.os.replace = kill
clips.prepare_clips(Path(sys.argv[1]), Path(sys.argv[2]), clips.Settings(8, 4), workers=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", [2, 4, 5])
def test_a_killed_one_goes_on_to_the_same_bytes(source, whole, tmp_path, when):
    """In the third part, in the array, in the captions; what is half written is cleared away."""
    out, root = tmp_path / "set", Path(__file__).parents[1]
    child = subprocess.run(
        [sys.executable, "-c", KILLED, source, out, str(when)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert len(list(out.glob(".tinygif-preparing/*.npz"))) == min(when, 4)
    assert len(list(out.rglob(".*.part"))) == 1
    assert same(prepare_clips(source, out, SMALL, workers=1), whole)


def test_a_finished_one_is_not_made_again_and_not_written_over(source, whole, monkeypatch):
    monkeypatch.setattr(prepare, "decode", None)
    assert prepare_clips(source, whole, SMALL) == whole
    with pytest.raises(TinygifError, match="other content or other settings: choose another --out"):
        prepare_clips(source, whole, Settings(size=16, frames=4))


def test_nothing_of_the_users_is_deleted(tmp_path):
    """Also where clips are prepared in their own folder, among other files of theirs."""
    source = make(tmp_path / "gifs", 3, broken=False)
    make(source / "parts-1", 2, broken=False)
    (source / "parts-1" / "000000.npz").write_text("mine")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for _ in range(2):
        assert prepare_clips(source, source, SMALL, workers=1) == source
        after = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
        assert {path.name for path in after.keys() - before.keys()} == {*PARTS}
        assert after | before == after


@pytest.mark.parametrize("name", [*PARTS, ".tinygif-preparing"])
def test_a_folder_that_has_such_files_of_others_is_refused(source, tmp_path, monkeypatch, name):
    out = tmp_path / "set"
    out.mkdir()
    (out / name).write_text("mine")
    monkeypatch.setattr(prepare, "decode", None)
    with pytest.raises(TinygifError, match="expected .*, got .*set"):
        prepare_clips(source, out, SMALL)
    assert [path.name for path in out.iterdir()] == [name] and (out / name).read_text() == "mine"


def test_what_somebody_put_into_the_folder_of_parts_stays(source, tmp_path):
    work = tmp_path / "set" / ".tinygif-preparing"
    work.mkdir(parents=True)
    (work / "thesis.txt").write_text("mine")
    prepare_clips(source, tmp_path / "set", SMALL, workers=1)
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]


def test_of_two_that_prepare_one_folder_one_waits(source, whole, tmp_path, monkeypatch):
    """And finds the set finished."""
    out, said, results = tmp_path / "set", queue.Queue(), []
    monkeypatch.setattr(files, "print", lambda text, **_: said.put(text), raising=False)
    monkeypatch.setattr(prepare, "decode", None)
    second = threading.Thread(target=lambda: results.append(prepare_clips(source, out, SMALL)))
    with files.lock(out / ".tinygif-preparing" / "lock"):
        second.start()
        assert said.get(timeout=20) == f"another process prepares {out}; waiting for it"
        for name in PARTS:
            shutil.copy(whole / name, out)
        shutil.rmtree(out / ".tinygif-preparing")  # as the first one does at last
    second.join()
    assert results == [out] and same(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_start_together_make_one_set(source, whole, tmp_path, count):
    run = [sys.executable, "-c", TOGETHER, source, tmp_path / "set"]
    root = str(Path(__file__).parents[1])
    children = [subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 env={**os.environ, "PYTHONPATH": root})
                for _ in range(count)]  # fmt: skip
    said = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0] * count, said
    assert sum("waiting for it" in out for out, _ in said) >= 1
    assert same(tmp_path / "set", whole)


TOGETHER = """
import sys
from pathlib import Path
from tinygif import clips
clips.prepare.PART = 4
read = clips.prepare.read_clip
clips.prepare.read_clip = lambda *args: __import__("time").sleep(0.3) or read(*args)
clips.prepare_clips(Path(sys.argv[1]), Path(sys.argv[2]), clips.Settings(8, 4), workers=1)
"""


@pytest.fixture
def links(source, tmp_path, monkeypatch):
    """A table of four links, of which those in `failures` give nothing."""
    failures = {}
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "cache"))

    def download(urls, folder):
        for url in urls:
            if url not in failures:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / url[-6:], folder / sources.file_name(url))
        return {url: failures[url] for url in urls if url in failures}

    monkeypatch.setattr(sources, "download_gifs", download)
    urls = [f"http://a.test/0{i}.gif" for i in range(4)]
    (tmp_path / "links.tsv").write_text("".join(f"{url}\ta caption\n" for url in urls))
    return SimpleNamespace(table=tmp_path / "links.tsv", failures=failures, urls=urls)


@pytest.mark.parametrize("why", ["refused: 403", "no answer: timed out"])
def test_a_link_that_arrives_later_leaves_a_finished_set_as_it_is(links, tmp_path, capsys, why):
    """And it says so. Nor does it matter that other links fail than before."""
    links.failures[links.urls[2]] = why
    out = prepare_clips(links.table, settings=SMALL, workers=1)
    assert read_report(out)["skips"] == {links.urls[2]: why}
    assert "have arrived" not in capsys.readouterr().out
    finished = {name: (out / name).read_bytes() for name in PARTS}
    links.failures.clear()
    links.failures[links.urls[3]] = why
    assert prepare_clips(links.table, settings=SMALL, workers=1) == out
    assert prepare_clips(links.table, out, SMALL, workers=1) == out
    assert f"1 clips have arrived since {out} was prepared, and are not in it" in (
        capsys.readouterr().out
    )
    assert {name: (out / name).read_bytes() for name in PARTS} == finished


def test_a_link_that_arrives_before_the_set_is_finished_is_in_it(links, tmp_path, monkeypatch):
    """Only the part where it belongs is made again."""
    monkeypatch.setattr(prepare, "PART", 2)
    links.failures[links.urls[2]] = "no answer: timed out"
    join = prepare.join
    monkeypatch.setattr(prepare, "join", None)
    with pytest.raises(TypeError):
        prepare_clips(links.table, tmp_path / "set", SMALL, workers=1)
    monkeypatch.setattr(prepare, "join", join)
    links.failures.clear()
    seen = []
    monkeypatch.setattr(
        prepare, "read_clip", lambda path, s: seen.append(path) or read_clip(path, s)
    )
    prepare_clips(links.table, tmp_path / "set", SMALL, workers=1)
    assert len(seen) == 2 and read_report(tmp_path / "set")["kept"] == 4
    assert [row["name"] for row in read_rows(tmp_path / "set")] == links.urls


def test_the_cache_goes_by_content_and_settings(tmp_path):
    source = make(tmp_path / "few", 3, broken=False)
    first = prepare_clips(source, settings=SMALL)
    assert first.name.startswith("few-") and prepare_clips(source, settings=SMALL) == first
    moved = shutil.copytree(source, tmp_path / "copy" / "few")
    assert prepare_clips(moved, settings=SMALL) == first
    assert prepare_clips(source, settings=Settings(size=8, frames=2)) != first
    (source / "00.txt").write_text("another caption")
    second = prepare_clips(source, settings=SMALL)
    steps(source / "01.gif", [50, 60])
    assert len({first, second, prepare_clips(source, settings=SMALL)}) == 3


@pytest.mark.parametrize("when", [0, 3, 4, 6])
def test_a_full_disk_is_a_sentence_and_loses_nothing(source, whole, tmp_path, monkeypatch, when):
    sync, left = os.fsync, iter(range(2 * when))  # of each file, and of its folder

    def full(file):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(TinygifError, match="could not write .*No space left on device"):
        prepare_clips(source, tmp_path / "set", SMALL, workers=1)
    written = {path.name for path in (tmp_path / "set").rglob("*") if path.is_file()} - {"lock"}
    assert len(written) == when and not any(name.endswith(".part") for name in written)
    monkeypatch.setattr(files.os, "fsync", sync)
    assert same(prepare_clips(source, tmp_path / "set", SMALL, workers=1), whole)


def test_too_little_room_is_found_before_the_work(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(prepare, "decode", None)
    with pytest.raises(TinygifError, match="0 MB free, 15 clips may need 0 MB"):
        prepare_clips(source, tmp_path / "set", SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(TinygifError, match="cannot write to"):
        prepare_clips(source, tmp_path / "file" / "set", SMALL)


def test_nothing_to_keep_is_an_error_that_names_the_reasons(tmp_path):
    (tmp_path / "gifs").mkdir()
    (tmp_path / "gifs" / "a.gif").write_text("no")
    with pytest.raises(TinygifError, match="none of 1 clips can be read: .*'not a GIF': 1"):
        prepare_clips(tmp_path / "gifs", tmp_path / "set", SMALL, workers=1)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), SyntaxError("x"), EOFError()])
def test_whatever_a_decoder_raises_is_a_skip(source, tmp_path, monkeypatch, error):
    def fail(path, settings):
        if path.name == "04.gif":
            raise error
        return read_clip(path, settings)

    monkeypatch.setattr(prepare, "read_clip", fail)
    out = prepare_clips(source, tmp_path / "set", SMALL, workers=1)
    assert read_report(out)["skips"]["04.gif"] == f"broken: {type(error).__name__}"


def test_videos_without_ffmpeg_name_the_extra_before_the_work(tmp_path, monkeypatch):
    source = make(tmp_path / "gifs", 2, broken=False)
    (source / "a.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    says = r'1 of 3 files are videos.*pip install "tinygif\[video\]"'
    with pytest.raises(TinygifError, match=says):
        prepare_clips(source, tmp_path / "set", SMALL)


def test_a_broken_video_is_skipped(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    source = make(tmp_path / "gifs", 2, broken=False)
    (source / "a.mp4").write_bytes(b"no video")
    gif.write(source / "b.mp4", np.full((9, 16, 16, 1), 90, np.uint8), 10)
    out = prepare_clips(source, tmp_path / "set", SMALL, workers=1)
    assert list(read_report(out)["skips"]) == ["a.mp4"]
    assert np.abs(np.load(out / "clips.npy")[2].astype(int) - 90).max() < 8


def test_a_broken_folder_is_named(tmp_path, whole):
    shutil.copy(whole / "report.json", tmp_path)
    says = "expected a folder that .*prepare` made, got"
    for read in (read_rows, map_clips, statistics):
        with pytest.raises(TinygifError, match=says):
            read(tmp_path)
    (tmp_path / "clips.npy").write_bytes((whole / "clips.npy").read_bytes()[:-1])
    with pytest.raises(TinygifError, match=says):
        map_clips(tmp_path)
    for text in ("", "{}", '{"settings": {"colour": 1}, "key": ""}', '{"settings": {}, "key": ""}'):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(TinygifError, match=says):
            read_report(tmp_path)


def test_files_that_do_not_belong_together_are_named(tmp_path, whole):
    """Else a clip would be trained on with the caption of another one."""
    other = Path(shutil.copytree(whole, tmp_path / "set"))
    report = json.loads((other / "report.json").read_text())
    del report["sha256"]  # as in folders that were made before
    (other / "report.json").write_text(json.dumps(report))
    lines = (whole / "captions.jsonl").read_text()
    (other / "captions.jsonl").write_text(lines.split("\n", 1)[1])
    with pytest.raises(TinygifError, match="got .*set: 9 lines of captions for 10 clips"):
        read_rows(other)
    (other / "captions.jsonl").write_text(lines)
    for array in (np.zeros((9, 4, 8, 8, 3), np.uint8), np.zeros((10, 4, 8, 8, 3), np.int8)):
        np.save(other / "clips.npy", array)
        with pytest.raises(TinygifError, match=r"got .*set: .*instead of uint8 \(10, 4, 8, 8, 3\)"):
            ClipFolder(other, DataConfig(size=8, frames=4, channels=3), None)


@pytest.mark.parametrize("name", ["clips.npy", "captions.jsonl"])
def test_a_flipped_byte_is_noticed(tmp_path, whole, name):
    other = Path(shutil.copytree(whole, tmp_path / "set"))
    data = bytearray((other / name).read_bytes())
    data[-3] ^= 1
    (other / name).write_bytes(data)
    with pytest.raises(TinygifError, match=f"{name} is damaged"):
        ClipFolder(other, DataConfig(size=8, frames=4, channels=3), None)


def test_odd_files_of_other_projects_become_clips_or_reasons(real_data, tmp_path):
    """A canvas of 11390 x 12595 of no pixels among them."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for i, path in enumerate(sorted(real_data.glob("odd_gifs/*/*.gif"))):
        if path.stat().st_size < 100_000:
            shutil.copy(path, folder / f"{i:03d}.gif")
    report = read_report(prepare_clips(folder, tmp_path / "set", SMALL, workers=1))
    assert report["kept"] + report["skipped"] == len(list(folder.iterdir()))
    assert report["skipped"] == 12
    reasons = {why.partition(":")[0] for why in report["skips"].values()}
    assert reasons <= {"broken", "no frames", "too large"}
    assert not re.search("0x[0-9a-f]{6}|tmp", str(report["skips"]))  # no address, no path


# ---- what is shown ---------------------------------------------------------------------------


def test_statistics_count(whole):
    said = statistics(whole)
    for part in (
        "10 clips, 5 skipped {'too large': 2", "3 frames of 100 ms", "2 words in a caption",
        "20 captions of 13 different words", "0 clips without a caption, 1 that do not move",
    ):  # fmt: skip
        assert part in said


def test_show_is_a_captioned_grid(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(Show(whole, count=4))
    picture, delays = read_gif(tmp_path / "set.gif")
    assert len(picture) == 4 and picture.shape[1] > 2 * 96 and delays.sum() == 300
    array = np.load(whole / "clips.npy")
    tile = picture[:, 4 : 4 + 96 : 12, 4 : 4 + picture.shape[2] // 2 : 1]
    wanted = np.broadcast_to(array[0][:, :, :1], array[0][:, :, :1].shape)
    columns = [x for x in range(tile.shape[2]) if np.abs(tile[:, :, x] - wanted[:, :, 0]).max() < 9]
    assert columns and "10 clips, 5 skipped" in capsys.readouterr().out


def test_the_command_says_what_it_made_and_how_to_go_on(source, whole, tmp_path, capsys):
    main(Prepare(source, tmp_path / "set", SMALL, workers=1))
    said = capsys.readouterr().out
    assert same(tmp_path / "set", whole)
    assert "10 clips, 5 skipped" in said and f"train.py --dataset {tmp_path / 'set'}" in said


@pytest.mark.slow
def test_the_command_line(tmp_path):
    run = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "tinygif.clips", *map(str, words)], capture_output=True, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    made = run("prepare", make(tmp_path / "gifs", 2), "--out", tmp_path / "set", "--size", 8,
               "--frames", 4, "--fps", 8, "--crop", "letterbox", "--workers", 1)  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert read_report(tmp_path / "set")["settings"] == asdict(Settings(8, 4, 8, "letterbox"))
    wrong = run("show", tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("clips: expected a folder that")


@pytest.fixture
def made(tmp_path):
    """Two prepared clips."""
    (tmp_path / "gifs").mkdir()
    for name in "ab":
        write_gif(tmp_path / f"gifs/{name}.gif", np.zeros((3, 8, 8, 3), np.uint8), 10)
        (tmp_path / f"gifs/{name}.txt").write_text("a cat")
    return prepare_clips(tmp_path / "gifs", tmp_path / "set", Settings(8, 2), workers=1)


def write_report(out, **changes):
    report = json.loads((out / "report.json").read_text())
    del report["sha256"]  # as folders that older versions made
    (out / "report.json").write_text(json.dumps(report | changes))


@pytest.mark.parametrize("change", [
    {"captions": 5}, {"captions": None}, {"captions": [["a"]]}, {"captions": "a cat"},
    {"name": None}, {"frames": 0}, {"frames": "6"}, {"duration": None}, {"static": 1}, None,
])
def test_a_line_of_captions_that_was_not_written_here_is_refused(made, change):
    lines = (made / "captions.jsonl").read_text().splitlines()
    row = change and json.loads(lines[0]) | change
    (made / "captions.jsonl").write_text(f"{json.dumps(row)}\n{lines[1]}\n")
    write_report(made)
    with pytest.raises(TinygifError, match="expected a folder that .* made"):
        read_rows(made)


def test_a_report_of_infinitely_many_clips_is_refused(made):
    write_report(made, kept=float("inf"))
    with pytest.raises(TinygifError, match="expected a folder that .* made"):
        read_report(made)


def test_a_report_that_is_nested_too_deep_is_refused(made):
    (made / "report.json").write_text("[" * 10**5)
    with pytest.raises(TinygifError, match="expected a folder that .* made"):
        read_report(made)
