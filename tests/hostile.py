"""Hostile files, made up by hypothesis, and what reading them has to give. Part of `faults.py`."""

import contextlib
import copy
import csv
import dataclasses
import hashlib
import io
import json
import os
import posixpath
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from places import FULL, Place, check, judge, read_set, same_arrays, undamaged

Hostile = tuple[str, dict]
"""One case: which of the READERS reads it, and what its files hold."""
STRIDE = 4  # hypothesis likes to repeat itself: of its examples every fourth is taken
COMMIT = "0123456789abcdef" * 2 + "01234567"
PROMPTS = ("a 7 moving left", None)
CLIPS = ("a.gif", "b.gif", "dir/c d.gif",
         os.fsdecode(b"\xff.gif") if sys.platform == "linux" else "\xff.gif")  # fmt: skip
"""Clips in a folder with a hostile table of captions. Where a name may be any bytes, the last one
is no text in UTF-8."""
STRINGS = (
    "", " ", "\0", ".", "..", "../..", "/", "~", "~nobody/x", "/dev/zero", "a" * 5000, "\ud800",
    "http://127.0.0.1/", "none/such", "some/one", "words", "clip", "bert", "unet", "shapes",
    "moving_mnist", "ddim", "ddpm", "cosine", "linear", "eps", "x0", "v", "l1", "muon", "adamw",
    "time", "conv+text", "time+time", "space+", "relu", "gelu", "F32", "F64", "U8",
)
NUMBERS = (
    0, -1, 1, 2, 3, 4, 7, 16, 3000, 2**31, 2**63, 10**12, 10**30, 0.5, 1e-300, 1e308,
    float("inf"), float("nan"),
)  # fmt: skip
"""Values that take the place of others in a file."""
SPARE_KEYS = ("x", "text_config_dict", "is_decoder", "position_embedding_type", "captions", "model")
BROKEN_JSON = ("", "{", "null", "[" * 10**5, '{"a":' * 10**5, "9" * 5000, "\ufeff{}", "{}", "[[]]")


def hostile_cases(place: Place, seed: int) -> list[Hostile]:
    """All of them, made up by hypothesis. The same seed gives the same ones.

    In turn: a checkpoint with other metadata or another header; a pretrained model with another
    config.json; a table of captions or a prepared folder; a model as the hub gives it, with pieces
    that are missing, damaged, of another model, or no files at all.
    """
    import hypothesis
    from hypothesis import strategies as st

    def draw_cases(strategy: st.SearchStrategy) -> list[Hostile]:
        drawn = []

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=STRIDE * FULL["hostile"] // 4, database=None, deadline=None,
            phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(strategy)
        def keep(case: Hostile) -> None:
            drawn.append(case)

        keep()
        return drawn[::STRIDE]

    drawn = map(draw_cases, hostile_strategies(place))
    return [case for turn in zip(*drawn, strict=True) for case in turn]


def hostile_strategies(place: Place) -> tuple:
    """What the cases are drawn from: checkpoints, towers, captions, models from the hub."""
    import towers
    from hypothesis import strategies as st

    from tinygif.hub import MODEL_FILES, find_model

    scalars = st.one_of(
        st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(STRINGS),
        st.integers(), st.floats(), st.text(max_size=20),
    )  # fmt: skip
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    )

    @st.composite
    def edited(draw: Callable, original: dict | list) -> str:
        """The same values as JSON, with one to three entries changed, left out or added."""
        result = copy.deepcopy(original)
        for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
            spots = list(entries(result))
            if not spots:
                break
            holder, key = spots[draw(st.integers(0, len(spots) - 1))]
            match draw(st.sampled_from(("set", "set", "set", "drop", "add"))):
                case "drop":
                    del holder[key]
                case "add" if isinstance(holder, dict):
                    holder[draw(st.sampled_from(SPARE_KEYS))] = draw(values)
                case "add":
                    holder.append(draw(values))
                case _:
                    likely = st.sampled_from(close_to(holder[key]))
                    holder[key] = draw(likely if draw(st.integers(0, 5)) else values)
        return json.dumps(result)

    def json_texts(original: dict | list) -> st.SearchStrategy:
        broken = st.sampled_from(BROKEN_JSON) | values.map(json.dumps) | st.text(max_size=50)
        return st.integers(0, 9).flatmap(lambda n: edited(original) if n else broken)

    def checkpoint(name: str) -> st.SearchStrategy:
        header, _ = split_checkpoint(place.run / name)
        about = json.loads(header["__metadata__"]["tinygif"])
        del about["json"]  # its checksum, which older versions did not write

        def with_about(text: str) -> str:
            return json.dumps(header | {"__metadata__": {"tinygif": text}})

        lengths = st.sampled_from((None, None, None, 0, 1, 2**20, 2**63, 2**64 - 1))
        texts = st.tuples(json_texts(about).map(with_about), st.none())
        headers = st.tuples(json_texts(header), lengths)
        return st.integers(0, 3).flatmap(lambda n: texts if n else headers).map(
            lambda pair: ("checkpoint", {"name": name, "header": pair[0], "length": pair[1]})
        )  # fmt: skip

    def tower(kind: str) -> st.SearchStrategy:
        return st.fixed_dictionaries({
            "kind": st.just(kind), "config": json_texts(towers.CONFIGS[kind]),
            "with_weights": st.booleans(),
            "pool": st.sampled_from((None, None, None, None, "last", "first", "mean")),
            "max_tokens": st.sampled_from((16,) * 9 + (8, 4, 3, 2, 1, 0, -1, 77, 2**16, 2**63)),
        }).map(lambda files: ("tower", files))  # fmt: skip

    def hub(kind: str) -> st.SearchStrategy:
        whole = place.folder / kind
        header, _ = split_checkpoint(whole / "model.safetensors")
        tokenizer = json.loads((whole / "tokenizer.json").read_text())
        texts = {
            "config.json": json_texts(towers.CONFIGS[kind]),
            "tokenizer.json": json_texts(tokenizer), "model.safetensors": json_texts(header),
        }  # fmt: skip
        share = st.floats(0, 1, exclude_max=True)

        def piece(file: str) -> st.SearchStrategy:
            ways = st.sampled_from(("missing", "folder", "endless", "pipe", "large", "other"))
            damages = st.one_of(
                ways.map(lambda way: (way,)), st.tuples(st.just("text"), texts[file]),
                st.tuples(st.just("cut"), share), st.tuples(st.just("byte"), share),
            )  # fmt: skip
            return st.sampled_from(("bad", "whole", "whole")).flatmap(
                lambda way: damages if way == "bad" else st.just(("whole",))
            )

        revisions = (None, None, None, find_model(str(whole)).digest, COMMIT, "main", *STRINGS[:12])
        return st.fixed_dictionaries({
            "kind": st.just(kind), "is_cached": st.booleans(),
            "pieces": st.fixed_dictionaries({file: piece(file) for file in MODEL_FILES}),
            "name": st.sampled_from(("some/one",) * 9 + STRINGS[1:12]),
            "revision": st.sampled_from(revisions),
            "ref": st.sampled_from((COMMIT,) * 9 + (f"{COMMIT}\n", "", "\0", "..", "../..")),
        }).map(lambda files: ("hub", files))  # fmt: skip

    return (
        checkpoint("model.safetensors") | checkpoint("state.safetensors"),
        tower("bert") | tower("clip"),
        st.one_of(
            tables(place), other_captions(values), videos(json_texts), prepared(place, json_texts)
        ),
        hub("bert") | hub("clip"),
    )


def tables(place: Place):
    """Captions in a table or in a file beside each clip, and the (name, caption) that they say."""
    from hypothesis import strategies as st

    plain = st.characters(exclude_categories=("Cs",), exclude_characters="\ufeff")
    words = st.sampled_from((
        "a cat jumps", "a dog jumps", "", " ", "a cat,\nwith\ta hat", 'a "cat" jumps',
        "$x_$ \\frac", "<null>", "he left, 2 < 3", "кот прыгает", "猫が跳ぶ", "\u202egif",
        "cat " * 50000, "a" * 100000,
    ))  # fmt: skip
    captions = words | st.text(plain, max_size=30)
    names = st.sampled_from((
        *CLIPS[:3], *CLIPS[:3], "./a.gif", "dir/../b.gif", "A.GIF", "none.gif", "../private/x.gif",
        str(place.source / "00.gif"), "/dev/zero", "", ".", "..", "http://127.0.0.1/x.gif",
        "a.gif\0", "a" * 300 + ".gif",
    )) | st.text(plain, max_size=10)  # fmt: skip

    def make(
        pairs: list[tuple[str, str]], file: str, columns: tuple[str, ...], mark: str
    ) -> Hostile:
        if file == "txt":
            lines = [(name, " ".join(text.splitlines())) for name, text in pairs if name in CLIPS]
            files = {f"{Path(name).with_suffix('.txt')}": "" for name, _ in lines}
            for name, text in lines:
                files[f"{Path(name).with_suffix('.txt')}"] += f"{text}\n"
            files = {name: encode(mark + text) for name, text in files.items()}
            return "captions", {"files": files, "pairs": lines}
        if file.endswith(".jsonl"):
            rows = [json.dumps({"file_name": name, "text": text}) for name, text in pairs]
            files = {file: encode(mark + "\n".join(rows))}
            return "captions", {"files": files, "pairs": pairs}
        if file.endswith(".tsv"):
            pairs = [tuple(" ".join(cell.split()) for cell in pair) for pair in pairs]
        out, cells = io.StringIO(newline=""), {"licence": "CC-BY 4.0, free", "width": "480"}
        as_tsv = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
        writer = csv.writer(out, **as_tsv if file.endswith(".tsv") else {"quoting": csv.QUOTE_ALL})
        if columns:
            writer.writerow(columns)
        for name, text in pairs:
            row = cells | {"file_name": name, "text": text}
            writer.writerow([row[column] for column in columns or ("file_name", "text")])
        return "captions", {"files": {file: encode(mark + out.getvalue())}, "pairs": pairs}

    columns = st.permutations(("file_name", "text", "licence", "width")).map(tuple)
    return st.builds(
        make, st.lists(st.tuples(names, captions), max_size=8),
        st.sampled_from(("captions.tsv", "captions.csv", "metadata.csv", "metadata.jsonl", "txt")),
        st.just(()) | columns, st.sampled_from(("", "\ufeff")),
    )  # fmt: skip


def other_captions(values):
    """Files that are no tables, and rows of other types. What captions they give is not known."""
    from hypothesis import strategies as st

    names = st.sampled_from(
        ("captions.tsv", "captions.csv", "metadata.csv", "metadata.jsonl", "a.txt", "dir/c d.txt")
    )
    keys = st.sampled_from(("file_name", "text", "caption", "x"))
    rows = st.lists(st.dictionaries(keys, values | st.sampled_from(CLIPS[:3])) | values, max_size=4)
    csv_texts = st.sampled_from((
        "file_name\n", "file_name,text\na.gif", "text\na cat",
        "file_name,file_name,text\na.gif,b.gif", "a.gif,\0\r\rb.gif", '"a.gif,a cat', "\n\n\n",
        "a.gif," + "x" * 140000, ",,,\n,,,",
    ))  # fmt: skip
    contents = st.one_of(
        st.binary(max_size=60), st.text(max_size=60).map(encode), csv_texts.map(encode),
        rows.map(lambda rows: encode("\n".join(map(json.dumps, rows)))),
        st.sampled_from(BROKEN_JSON).map(encode),
    )  # fmt: skip
    files = st.dictionaries(names, contents, min_size=1, max_size=3)
    return files.map(lambda files: ("captions", {"files": files, "pairs": None}))


def videos(json_texts: Callable):
    """MSR-VTT's JSON with other values."""
    return json_texts({
        "videos": [{"video_id": "a", "split": "train"}, {"video_id": "../private/x"},
                   {"video_id": 7}],
        "sentences": [{"video_id": "a", "caption": "a cat"}, {"video_id": "b", "caption": "a dog"}],
    }).map(lambda text: ("videos", {"text": text}))  # fmt: skip


def prepared(place: Place, json_texts: Callable):
    """The report or the captions of a prepared folder with other values, and right checksums."""
    report = json.loads((place.set / "report.json").read_text())
    lines = (place.set / "captions.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))

    def with_rows(text: str) -> dict:
        try:
            text = "".join(json.dumps(row) + "\n" for row in json.loads(text))
        except (ValueError, TypeError, RecursionError):
            pass  # it is no list, and is written as it is
        digest = hashlib.sha256(encode(text)).hexdigest()
        sums = report["sha256"] | {"captions.jsonl": digest}
        return {"report.json": json.dumps(report | {"sha256": sums}), "captions.jsonl": text}

    reports = json_texts(report).map(lambda text: {"report.json": text})
    files = reports | json_texts(rows).map(with_rows)
    return files.map(
        lambda files: ("prepared", {"files": {n: encode(text) for n, text in files.items()}})
    )


def entries(values: object) -> Iterator[tuple[dict | list, object]]:
    """(dictionary or list, key) of every entry of a JSON value, but of lists only the first 3."""
    keys = list(values) if isinstance(values, dict) else range(min(len(values), 3))
    for key in keys:
        yield values, key
        if isinstance(values[key], dict | list):
            yield from entries(values[key])


def close_to(value: object) -> list:
    """Other values of the type of a JSON value, most of them odd; and a few of another type."""
    if isinstance(value, bool):
        return [not value, not value, None, str(value), int(value)]
    if isinstance(value, int | float):
        near = [value + 1, value - 1, 2 * value, value // 2, -value, 1000 * value]
        return [*near, *near, *NUMBERS, float(value), str(value), None]
    if isinstance(value, str):
        return [f"{value} ", value.upper(), value[1:], [value], *STRINGS]
    if isinstance(value, list):
        return [value[1:], value[::-1], 2 * value, [value], 500 * value, None]
    return [*NUMBERS, *STRINGS] if value is None else [{}, [value], list(value)]


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def split_checkpoint(path: Path) -> tuple[dict, bytes]:
    """The header of a safetensors file, and the bytes of its arrays."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def write_checkpoint(path: Path, whole: Path, header: str, length: int | None = None) -> None:
    """Another header before the arrays of `whole`; `length` is what the file says of its length."""
    _, arrays = split_checkpoint(whole)
    data = encode(header)
    length = len(data) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + data + arrays)


# ---- hostile files: what is read -------------------------------------------------------------


def hostile(place: Path, case: Hostile) -> tuple[str, str]:
    """One case, in a folder of its own. It may print only what a terminal can show."""
    reader, files = case
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ["TINYGIF_CACHE"] = f"{folder}/cache"
        out = stack.enter_context(io.TextIOWrapper(io.BytesIO(), "utf-8"))
        errors = stack.enter_context(io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(errors))
        end, why = judge(lambda: READERS[reader](place, Path(folder), **files))
    return end, f"{reader}, {str(files)[:600]}: {why}"


def read_checkpoint(place: Place, folder: Path, name: str, header: str, length: int | None) -> None:
    """It is refused, or gives the config that stands in it, and the arrays of the whole file."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import tinygif
    from tinygif import checkpoint, training

    whole = place.run / name
    write_checkpoint(folder / name, whole, header, length)
    if name == "model.safetensors":
        pipeline = tinygif.load(folder / name)
        tree, config = pipeline.model, pipeline.config
        shape = tree.codec.shape(config.data.frames, config.data.size)
        prompt = jax.tree.map(lambda x: jnp.asarray(x[0]), pipeline.reader.batch([None]))
        x, t = jax.ShapeDtypeStruct(shape, "float32"), jax.ShapeDtypeStruct((), "float32")
        eqx.filter_eval_shape(tree, x, t, prompt)  # the layers fit; nothing is computed
    else:
        tree, about = training.load_state(folder)
        config = about.config
    values = json.loads(json.loads(header)["__metadata__"]["tinygif"])["config"]
    check(is_part(values, json.loads(json.dumps(dataclasses.asdict(config)))), "another config")
    found = {name: np.asarray(array) for name, array in checkpoint.named(tree).items()}
    check(same_arrays(found, load_arrays(whole)), "other arrays")


def is_part(part: object, whole: object) -> bool:
    """Whether `whole` has all that is in `part`, two JSON values: the same numbers and types."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and is_part(part[name], whole[name]) for name in part)
    return json.dumps(part) == json.dumps(whole)


@lru_cache
def load_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def read_tower(
    place: Place, folder: Path, kind: str, config: str, with_weights: bool, pool: str | None,
    max_tokens: int,
) -> None:  # fmt: skip
    """It is refused or gives vectors, which are the right ones if the sizes are.

    With `with_weights` the weights fit the config, where it is one that weights can be made for.
    """
    import towers

    from tinygif.metrics.clip_score import ClipScore
    from tinygif.towers.pretrained import read_config, text_sizes

    model, whole = folder / kind, place.folder / kind
    shutil.copytree(whole, model)
    if with_weights:
        with contextlib.suppress(Exception):
            values = json.loads(config)
            sizes = [holder[key] for holder, key in entries(values)]
            if all(size < 400 for size in sizes if isinstance(size, int)):
                towers.write(model, values)
    (model / "config.json").write_bytes(encode(config))
    states, pooled = encode_prompts(model, pool, max_tokens)
    check(np.isfinite(states).all() and np.isfinite(pooled).all(), "vectors that are not finite")
    if text_sizes(read_config(model), model) == text_sizes(read_config(whole), whole):
        wanted = encode_prompts(whole, pool, max_tokens)
        check(np.allclose(states, wanted[0], atol=1e-5), "other states")
        check(np.allclose(pooled, wanted[1], atol=1e-5), "another pooled vector")
    if kind == "clip":
        score = ClipScore(str(model))(np.zeros((1, 2, 24, 24, 3), np.uint8), PROMPTS[:1])
        check(score.shape == (1, 2) and (abs(score) <= 1.001).all(), f"scores of {score}")


def encode_prompts(
    name: str | Path, pool: str | None, max_tokens: int, revision: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The states and the pooled vectors of two prompts, the second of which is the null prompt."""
    from tinygif.config import TextConfig
    from tinygif.towers.embeddings import Embeddings, resolve_tower

    options = TextConfig(
        text=str(name), text_pool=pool, max_tokens=max_tokens, text_revision=revision
    )
    config = resolve_tower(options)
    text = Embeddings(config).batch(PROMPTS)
    check(text.states.shape == (2, max_tokens, config.text_dims[0]), "states of another shape")
    check(text.mask[0].any() and not text.mask[1].any(), "another mask")
    return text.states, text.pooled


def read_hub(
    place: Place, folder: Path, kind: str, is_cached: bool, pieces: dict[str, tuple], name: str,
    revision: str | None, ref: str,
) -> None:  # fmt: skip
    """A folder, or a model in the hub's cache, is refused or read.

    Where a hash says what the files must be, they are refused if one has changed.
    """
    import huggingface_hub.constants

    whole, home = place.folder / kind, folder / "hub" / "models--some--one"
    huggingface_hub.constants.HF_HUB_CACHE = str(folder / "hub")
    model = home / "snapshots" / COMMIT if is_cached else folder / "model"
    for path in (model, home / "blobs", home / "refs"):
        path.mkdir(parents=True)
    (home / "refs" / "main").write_bytes(encode(ref))
    for file, piece in pieces.items():
        path = model / file
        if is_cached and piece[0] in ("whole", "text", "cut", "byte", "other"):
            data = (whole / file).read_bytes()
            digest = (hashlib.sha256(data) if file == "model.safetensors" else
                      hashlib.sha1(b"blob %d\0" % len(data) + data))  # fmt: skip
            blob = home / "blobs" / digest.hexdigest()
            path.symlink_to(blob)
            path = blob
        make_piece(path, whole / file, *piece)
    found = encode_prompts(name if is_cached else model, None, 8, revision)
    changed = [file for file in pieces
               if (model / file).read_bytes() != (whole / file).read_bytes()]  # fmt: skip
    is_named = is_cached or revision is not None
    check(not (changed and is_named), f"{', '.join(changed)} changed, and passed for the hash")
    if not changed:
        wanted = encode_prompts(whole, None, 8)
        check(all(map(np.array_equal, found, wanted)), "other vectors")


def make_piece(path: Path, whole: Path, way: str, value: float | str | None = None) -> None:
    """One file of a model, or what takes its place; `whole` is the file as it should be."""
    data = whole.read_bytes()
    match way:
        case "whole":
            path.write_bytes(data)
        case "missing":
            pass
        case "folder":
            path.mkdir()
        case "endless":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "large":
            with open(path, "wb") as file:
                file.truncate(2**36)
        case "other":  # the same file of the other kind of model
            other = {"bert": "clip", "clip": "bert"}[whole.parent.name]
            path.write_bytes((whole.parents[1] / other / whole.name).read_bytes())
        case "cut":
            path.write_bytes(data[: int(value * len(data))])
        case "byte":
            place = int(value * len(data))
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        case "text" if whole.suffix == ".json":
            path.write_bytes(encode(value))
        case "text":
            write_checkpoint(path, whole, value)


def read_captions(
    place: Place, folder: Path, files: dict[str, bytes], pairs: list[tuple[str, str]] | None
) -> None:
    """Clips with such files beside them are prepared, and each has its own captions."""
    from tinygif.clips import ClipFolder, Settings, prepare_clips
    from tinygif.clips.dataset import show_clips, statistics
    from tinygif.clips.prepare import map_clips, read_clip, read_rows
    from tinygif.config import DataConfig

    source, out, settings = folder / "gifs", folder / "set", Settings(8, 4)
    (source / "dir").mkdir(parents=True)
    (folder / "private").mkdir()
    shutil.copy(place.source / "05.gif", folder / "private" / "x.gif")
    originals = {name: place.source / f"{i:02d}.gif" for i, name in enumerate(CLIPS)}
    for name, original in originals.items():
        shutil.copy(original, source / name)
    for name, data in files.items():
        (source / name).write_bytes(data)
    prepare_clips(source, out, settings, workers=1)
    rows, array = read_rows(out), map_clips(out)
    check([row["name"] for row in rows] == sorted(CLIPS), "other clips")
    for row, clip in zip(rows, array):
        wanted, _ = read_clip(originals[row["name"]], settings)
        check(np.array_equal(clip, wanted), f"another clip for {row['name']!r}")
        if pairs is not None:
            captions = captions_of(row["name"], pairs)
            got = row["captions"]
            check(got == captions, f"captions {got} of {row['name']!r} instead of {captions}")
    print(statistics(out))
    show_clips(out, folder / "shown.gif", len(rows))
    is_silent = not all(row["captions"] for row in rows)  # clips without captions are refused
    data = DataConfig(str(out), 8, 4, channels=3, flip=True, unconditional=is_silent)
    clips = ClipFolder(out, data, 16)
    print(clips.about, clips.words, clips.captions, clips.prompts)
    for i in range(4 * clips.size):
        clips.example(i, 2)


def captions_of(clip: str, pairs: list[tuple[str, str]]) -> list[str]:
    """The captions of a clip in a table, in their order, each once and with single spaces."""
    texts = (" ".join(text.split()) for name, text in pairs if posixpath.normpath(name) == clip)
    return [text for text in dict.fromkeys(texts) if text]


def read_videos(place: Place, folder: Path, text: str) -> None:
    """Of MSR-VTT's videos only files in their folder are found, each by its own name."""
    from tinygif.clips.sources import collect

    for name in ("videos/a.mp4", "videos/7.mp4", "private/x.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    source = folder / "videos" / "videodatainfo.json"
    source.write_bytes(encode(text))
    for item in collect(source):
        known = item.path is None or item.path.name in ("a.mp4", "7.mp4")
        inside = item.path is None or item.path == source.parent / f"{item.name}.mp4"
        check(known and inside, f"{item.name!r} is {item.path}")
        check(all(isinstance(caption, str) for caption in item.captions), "captions that are none")


def read_prepared(place: Place, folder: Path, files: dict[str, bytes]) -> None:
    """A prepared folder is refused, or has its own clips, and captions that are texts."""
    from tinygif.clips.dataset import show_clips, statistics
    from tinygif.clips.prepare import read_rows

    out = folder / "set"
    shutil.copytree(place.set, out)
    for name, data in files.items():
        (out / name).write_bytes(data)
    fps, *shape, _, examples = read_set(out, "")
    _, *wanted_shape, _, wanted = undamaged(place.set, "", read_set)
    check(0 < fps <= 50 and is_part(shape, wanted_shape), f"another shape: {shape}, {fps} fps")
    check([clip for *clip, _ in examples] == [clip for *clip, _ in wanted], "other clips")
    for row in read_rows(out):
        texts = [row["name"], *row["captions"]] if isinstance(row["captions"], list) else [None]
        check(all(isinstance(text, str) for text in texts), f"a row of {row}")
    print(statistics(out))
    show_clips(out, folder / "shown.gif", 4)


READERS = {
    "checkpoint": read_checkpoint, "tower": read_tower, "captions": read_captions,
    "videos": read_videos, "prepared": read_prepared, "hub": read_hub,
}  # fmt: skip
