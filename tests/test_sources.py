"""clips/sources.py: captions are found wherever a folder keeps them, and nothing is read beyond it.

Lesson 14.
"""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygif import gif
from tinygif.clips import sources
from tinygif.clips.sources import collect, play
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
    ("captions.csv", 'licence,File,Text,width\nCC-BY 4.0,a.gif,"one, ""two""",480\n\n'
                     'CC0,a.gif,"a\n  gain",480\nCC0,sub/b.gif,three\nCC0,c.gif\n'),
    ("metadata.csv", 'file_name,caption,width\r\na.gif,"one, ""two""",480\r\n'
                     'a.gif,"a\r\ngain",480\r\nsub/b.gif,three,\r\n'),
    ("captions.tsv", 'text\tpath\tlabel\none, "two"\ta.gif\tcat\n a  gain\ta.gif\n'
                     'three\tsub/b.gif\tdog\n'),
    ("metadata.jsonl", '{"file_name": "a.gif", "text": ["one, \\"two\\"", "again"]}\n\n'
                       '{"file_name": "sub/b.gif", "text": "three", "more": 1}\n'),
])  # fmt: skip
def test_tables_tell_captions(tmp_path, name, text):
    put(tmp_path, "a.gif", "sub/b.gif")
    (tmp_path / name).write_text(text)
    again = "again" if "again" in text else "a gain"  # lines in quotes are words apart
    found = captions(tmp_path)
    assert found.pop("c.gif", ()) == ()
    assert found == {"a.gif": ('one, "two"', again), "sub/b.gif": ("three",)}


@pytest.mark.parametrize(("text", "found"), [
    ("name,licence\na.gif,CC0\n", ()),  # no column of captions
    ("a.gif,name\n", ("name",)),  # a clip is no name of a column
    ("a.gif,a cat, CC0, 480\n", ("a cat, CC0, 480",)),
    ('a.gif,"a cat\njumps over\nthe dog"\n', ("a cat jumps over the dog",)),
    ("caption,text,file\none,two,a.gif\n", ("one", "two")),
    ("file_name,caption,width\na.gif,one,2,more\n", ("one",)),
    ("\n\n", ()), ("", ()),
])  # fmt: skip
def test_only_captions_become_captions(tmp_path, text, found):
    put(tmp_path, "a.gif")
    (tmp_path / "captions.csv").write_text(text)
    assert captions(tmp_path) == {"a.gif": found}


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


BEYOND, ABSENT, OTHER = "outside of the folder", "not found", "not a clip by its name"


@pytest.mark.parametrize(("name", "why"), [
    ("../private/x.gif", BEYOND), ("sub/../../private/x.gif", BEYOND), ("{private}", BEYOND),
    ("/dev/zero", BEYOND), ("..", BEYOND), ("fifo.gif", ABSENT), ("x" * 5000 + ".gif", ABSENT),
    ("http://a.test/x.gif", ABSENT), ("x\0.gif", ABSENT), ("sub", OTHER), ("notes.txt", OTHER),
    ("", OTHER),
])  # fmt: skip
@pytest.mark.parametrize("table", ["metadata.jsonl", "captions.csv"])
def test_a_table_names_only_clips_of_its_folder(tmp_path, table, name, why):
    """Nothing else is opened: not a file beyond the folder, no device, no pipe."""
    folder = tmp_path / "gifs"
    put(folder, "a.gif", "sub/b.gif")
    put(tmp_path, "private/x.gif")
    (folder / "notes.txt").write_text("secret")
    os.mkfifo(folder / "fifo.gif")
    name = name.format(private=tmp_path / "private" / "x.gif")
    row = {"file_name": name, "text": "stolen"}
    (folder / table).write_text(
        json.dumps(row) if table.endswith("jsonl") else f"file_name,text\n{name},stolen\n"
    )
    items = {item.name: item for item in collect(folder)}
    for own in ("a.gif", "sub/b.gif"):
        assert items.pop(own) == (own, folder / own, (), "")
    (item,) = items.values()
    assert item[1:] == (None, ("stolen",), why)


def test_a_table_below_may_name_what_is_above_it_in_the_folder(tmp_path):
    put(tmp_path, "a.gif")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "metadata.csv").write_text("file_name,text\n../a.gif,up here")
    assert captions(tmp_path) == {"a.gif": ("up here",)}


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
    ("metadata.jsonl", b"[" * 100_000, "line 1, got"),
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


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.apng", "a.mp4"])
def test_frames_that_are_not_wanted_are_not_drawn(tmp_path, monkeypatch, name):
    levels = np.repeat(np.arange(0, 200, 50, dtype=np.uint8), 48).reshape(4, 4, 4, 3)
    frames = [Image.fromarray(level) for level in levels]
    kind = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG", ".mp4": "GIF"}[(tmp_path / name).suffix]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:], duration=80,
                   **lossless)  # fmt: skip
    about = {"size": (4, 4), "fps": 12.5, "duration": 0.32}
    video = lambda _: iter([about, *(level.tobytes() for level in levels)])  # noqa: E731
    closing = lambda _: (part for part in video(_))  # noqa: E731
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(read_frames=closing))
    drawn, delays = zip(*play(tmp_path / name, wanted={1, 3}))
    assert delays == (80,) * 4 and drawn[0] is None and drawn[2] is None
    for number in (1, 3):
        np.testing.assert_array_equal(drawn[number], levels[number])
    assert [(frame, 80) for frame in [None] * 4] == list(play(tmp_path / name, wanted=()))


@pytest.mark.parametrize("blend", [0, 1])
@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "P"])
def test_the_default_image_of_an_apng_is_no_frame(tmp_path, mode, blend):
    """It is shown by programs that cannot play the others, and nothing of it shines through."""
    red, clear, blue = [Image.new("RGBA", (6, 4), rgba) for rgba in
                        [(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 255, 255)]]  # fmt: skip
    clear.putpixel((0, 0), (0, 0, 255, 255))
    first, *rest = [image.convert(mode) for image in (red, clear, blue)]
    first.save(tmp_path / "a.apng", "PNG", save_all=True, append_images=rest,
               default_image=True, duration=[80, 250], blend=blend)  # fmt: skip
    (one, delay), (two, last) = play(tmp_path / "a.apng")
    assert (delay, last) == (80, 250)
    for drawn, image in ((one, rest[0]), (two, rest[1])):
        white = Image.new("RGBA", (6, 4), "white")
        white.alpha_composite(image.convert("RGBA"))
        np.testing.assert_array_equal(drawn, np.asarray(white)[..., :3])
    assert [frame for frame, _ in play(tmp_path / "a.apng", wanted=())] == [None, None]


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
    put(tmp_path, *(f"mp4/{name}.mp4" for name in ("video7", "video9")), "video9.mp4")
    items = collect(tmp_path / "info.json", tmp_path / "mp4")
    assert [item.name for item in items] == ["video10", "video7", "video9"]
    assert [item.why for item in items] == ["not found", "", ""] and items[0].path is None
    assert items[1].path == tmp_path / "mp4" / "video7.mp4"
    assert items[1].captions == tuple(f"a video7 number {k}" for k in range(20))
    for asked in ("val", "validate"):
        one = collect(tmp_path / "info.json", split=asked)
        assert [item.path for item in one] == [tmp_path / "video9.mp4"]
    with pytest.raises(TinygifError, match=f"expected a split of .*'{spelt}'.*, got 'all'"):
        collect(tmp_path / "info.json", split="all")


@pytest.mark.parametrize("name", ["../private", "{private}", "a/../../private", "pipe", "x\0", 7])
def test_a_video_is_one_of_its_folder(tmp_path, name):
    put(tmp_path, "private.mp4")
    (tmp_path / "mp4").mkdir()
    os.mkfifo(tmp_path / "mp4" / "pipe.mp4")
    name = name.format(private=tmp_path / "private") if isinstance(name, str) else name
    videos = {"videos": [{"video_id": name}], "sentences": []}
    (tmp_path / "info.json").write_text(json.dumps(videos))
    (item,) = collect(tmp_path / "info.json", tmp_path / "mp4")
    assert item.path is None and item.why in ("outside of the folder", "not found")
    assert (item.why == "outside of the folder") == ("private" in str(name) and "a/" != name[:2])


def test_other_json_is_refused(tmp_path):
    for text in ("{}", "[]", "{", '{"videos": [{}], "sentences": []}', "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(TinygifError, match="expected MSR-VTT's JSON with videos and sentences"):
            collect(tmp_path / "a.json")
