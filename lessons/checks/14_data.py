"""Check of exercise 14."""

import tempfile
from pathlib import Path

import numpy as np

from tinygif.data import read_batch, slice_at
from tinygif.gif import write_gif

# file: (delays in ms, captions, frames that a player shows at 6 moments)
FILES = {
    "wait": ([400, 100, 100], ["one grows", "one gets larger", "one swells"], [0, 0, 0, 0, 1, 2]),
    "even": ([50] * 12, ["twelve pass"], [0, 2, 4, 6, 8, 10]),
    "ends": ([100, 500], ["two change", "a pair"], [0, 1, 1, 1, 1, 1]),
}


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.Folder`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (stem, (delays, captions, _)) in enumerate(FILES.items()):
            shades = 80 * number + np.arange(len(delays))
            clip = shades.astype(np.uint8)[:, None, None, None].repeat(2, axis=1)
            write_gif(folder / f"{stem}.gif", clip, delays=delays)
            (folder / f"{stem}.txt").write_text("\n".join(captions) + "\n")
        data = exercise.Folder(folder, 6)
        check_folder(data)
        check_batches(data, exercise.Folder(folder, 6))


def check_folder(data) -> None:
    names = sorted(FILES)
    assert data.size == 3, f"expected size 3, the number of GIFs, got {data.size}"
    words = sorted({word for _, texts, _ in FILES.values() for word in " ".join(texts).split()})
    assert data.words == words, f"expected words {words}, got {data.words}"
    for index in range(3 * 4):
        epoch, i = divmod(index, 3)
        _, captions, frames = FILES[names[i]]
        clip, caption = data[index]
        case = f"index {index}, {names[i]}.gif in epoch {epoch}"
        shape = getattr(clip, "shape", type(clip).__name__)
        assert shape == (6, 2, 1, 3), f"{case}: expected a clip of shape (6, 2, 1, 3), got {shape}"
        assert clip.dtype == np.uint8, f"{case}: expected uint8, got {clip.dtype}"
        base = 80 * list(FILES).index(names[i])
        shown = (clip[:, 0, 0, 0].astype(int) - base).tolist()
        assert shown == frames, f"{case}: expected the frames {frames} of the file, got {shown}"
        wanted = captions[epoch % len(captions)]
        assert caption == wanted, f"{case}: expected the caption {wanted!r}, got {caption!r}"
    short, caption = data.example(1, 3)
    assert short.shape == (3, 2, 1, 3), (
        f"example(1, 3): expected 3 frames, a clip of shape (3, 2, 1, 3), got {short.shape}")
    assert caption == data[1][1], (
        f"example(1, 3): expected the caption of index 1, {data[1][1]!r}, got {caption!r}")


def check_batches(data, fresh) -> None:
    whole = [read_batch(data, 0, slice_at(step, 2, 6)) for step in range(9)]
    for step in reversed(range(9)):  # a new object, asked in another order: a resumed run
        clips, captions = read_batch(fresh, 0, slice_at(step, 2, 6))
        assert np.array_equal(clips, whole[step][0]) and captions == whole[step][1], (
            f"step {step}: expected the same batch after resuming, got another: "
            "make what `example` gives depend on its arguments alone")
