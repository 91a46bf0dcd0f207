"""hub.py: a model is the one that was asked for, or a sentence says what is wrong. Lesson 10."""

import base64
import hashlib
import json
import os
import shlex
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny
import towers
from huggingface_hub.utils.sha import git_hash

import tinygif
from tinygif import checkpoint, hub
from tinygif.checkpoint import MODEL
from tinygif.config import TextConfig
from tinygif.errors import TinygifError
from tinygif.gif import write_gif
from tinygif.hub import KNOWN_MODELS, MODEL_FILES, PINNED, find_model
from tinygif.publish import Push, command_of, push
from tinygif.towers.embeddings import Embeddings, resolve_tower

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The three files of a model. Copy them, never change them."""
    return towers.write(tmp_path_factory.mktemp("towers") / "bert", towers.BERT)


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source, tmp_path / "bert")


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and a hub that nobody answers for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- a folder --------------------------------------------------------------------------------


def test_a_folder_without_safetensors_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(TinygifError, match="got no model.safetensors"):
        find_model(str(folder))


@pytest.mark.parametrize("file", MODEL_FILES)
def test_every_file_counts(folder, file):
    """A folder in which one byte of one file has changed is another model."""
    model = find_model(str(folder))
    assert model.revision == model.digest and find_model(str(folder), model.revision) == model
    data = bytearray((folder / file).read_bytes())
    data[-1] ^= 1
    (folder / file).write_bytes(data)
    assert find_model(str(folder)).digest != model.digest
    with pytest.raises(TinygifError, match="SHA-256 .*trained with others; put those back"):
        find_model(str(folder), model.revision)


def test_a_checkpoint_that_knows_the_hash_of_the_weights_alone_still_loads(folder):
    """As older versions wrote it: 64 digits of the weights."""
    weights = sha256(folder / "model.safetensors")
    config = resolve_tower(TextConfig(text=str(folder)))
    old = TextConfig(**vars(config) | {"text_revision": weights})
    assert Embeddings(old).store.folder == Embeddings(config).store.folder
    with pytest.raises(TinygifError, match="put those back"):
        find_model(str(folder), "0" * 64)


@pytest.mark.parametrize("file", MODEL_FILES)
def test_what_never_ends_is_not_read(folder, file):
    (folder / file).unlink()
    (folder / file).symlink_to("/dev/zero")
    with pytest.raises(TinygifError, match=f"got no {file}"):
        find_model(str(folder))
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(TinygifError, match=f"got no {file}"):
        find_model(str(folder))
    (folder / file).unlink()
    with open(folder / file, "wb") as sparse:
        sparse.truncate(7 * 2**40)
    with pytest.raises(TinygifError, match=f"at most {MODEL_FILES[file]} bytes in .*{file}"):
        find_model(str(folder))


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["/nowhere/at/all", "./here", "two words", "a/b/c", "~nobody/x", "a" * 5000, "\0"]
)
def test_what_is_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(TinygifError, match="expected words, clip, bert, a folder or a hub id"):
        find_model(name)


def test_known_models_are_pinned_to_a_commit():
    """Neither a branch nor a pull request, which their authors can move."""
    for name in KNOWN_MODELS.values():
        assert len(PINNED[name]) == 40 and set(PINNED[name]) <= set("0123456789abcdef")
    for commit, digests in hub.SHA256.items():
        assert commit in PINNED.values() and digests.keys() == MODEL_FILES.keys()
        assert all(len(digest) == 64 for digest in digests.values())


@pytest.mark.parametrize(("text", "name", "revision"), [
    ("clip", KNOWN_MODELS["clip"], PINNED[KNOWN_MODELS["clip"]]),
    (KNOWN_MODELS["clip"], KNOWN_MODELS["clip"], PINNED[KNOWN_MODELS["clip"]]),
    ("bert", KNOWN_MODELS["bert"], PINNED[KNOWN_MODELS["bert"]]),
    ("some/one", "some/one", "main"),
])  # fmt: skip
@pytest.mark.parametrize("offline", [True, False])
def test_offline_it_says_how_to_fetch_it(hub_cache, monkeypatch, text, name, revision, offline):
    """Offline by choice, or because nothing answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(TinygifError) as error:
        find_model(text)
    message = str(error.value)
    assert f"hf download {name} config.json tokenizer.json model.safetensors" in message
    assert f"--revision {revision};" in message and "--text words" in message


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch):
    """It takes the connection and says nothing. Without a time-out this test never ends."""
    monkeypatch.setattr(hub, "SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        with pytest.raises(TinygifError, match=f"no connection to {address}"):
            find_model("some/one")


# ---- the hub and its cache -------------------------------------------------------------------


def in_cache(source: Path, cache: Path, name: str = "some/one", commit: str = COMMIT) -> Path:
    """The snapshot folder of a model, as the hub's client lays it out: links to named contents."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for folder in (snapshot, home / "blobs", home / "refs"):
        folder.mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    for file in MODEL_FILES:
        data = (source / file).read_bytes()
        large = file == "model.safetensors"
        blob = home / "blobs" / (sha256(source / file) if large else git_hash(data))
        blob.write_bytes(data)
        (snapshot / file).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_a_model_in_the_hubs_cache_needs_no_connection(source, hub_cache):
    snapshot = in_cache(source, hub_cache)
    config = resolve_tower(TextConfig(text="some/one"))
    assert (config.text, config.text_revision) == ("some/one", COMMIT)
    assert find_model("some/one").digest == find_model(str(source)).digest
    (snapshot.parents[1] / "refs" / "main").unlink()
    assert resolve_tower(config) == config  # a checkpoint asks for the commit
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(TinygifError, match="expected config.json.*no connection"):
        resolve_tower(config)


def test_git_names_a_file_by_its_content():
    """As `git hash-object` does; so also in the hub's client, which we use."""
    assert git_hash(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize("file", MODEL_FILES)
def test_a_damaged_file_in_the_hubs_cache_is_refused(source, hub_cache, file):
    path = in_cache(source, hub_cache) / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.resolve().write_bytes(data)
    with pytest.raises(TinygifError, match=f"{file} to have the hash .*Delete .*blobs"):
        find_model("some/one")


@pytest.mark.parametrize("file", MODEL_FILES)
def test_a_pinned_model_has_the_files_that_everybody_has(source, hub_cache, monkeypatch, file):
    """Whatever the hub and its cache call them."""
    commit = PINNED[KNOWN_MODELS["clip"]]
    in_cache(source, hub_cache, KNOWN_MODELS["clip"], commit)
    digests = {name: sha256(source / name) for name in MODEL_FILES}
    monkeypatch.setitem(hub.SHA256, commit, digests)
    assert find_model("clip").revision == commit
    monkeypatch.setitem(hub.SHA256, commit, digests | {file: "0" * 64})
    with pytest.raises(TinygifError, match=f"{file} to have the hash 0000"):
        find_model("clip")


class Answers(BaseHTTPRequestHandler):
    """What both hubs below have in common: how they answer."""

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serve(hub: type[Answers], patch: pytest.MonkeyPatch):
    """Run a hub here, and let the hub's own client ask it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        patch.setattr("huggingface_hub.constants.ENDPOINT", address)
        links = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", links)
        yield
        server.shutdown()


@contextmanager
def fake_hub(source: Path, patch: pytest.MonkeyPatch, damaged: str | None = None):
    """A hub with one model, some/one; what it serves as `damaged` is not what it announces."""
    contents = {file: (source / file).read_bytes() for file in MODEL_FILES}
    names = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
    tree = [
        {"type": "file", "path": file, "size": len(contents[file]), "oid": "0" * 40,
         "lfs": {"oid": name, "size": len(contents[file]), "pointerSize": 134}}
        for file, name in names.items()
    ]  # fmt: skip

    class Hub(Answers):
        def do_GET(self) -> None:  # noqa: N802
            path = self.path.partition("?")[0]
            if not path.startswith(("/api/models/some/one/", "/some/one/resolve/")):
                return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            if "/revision/" in path:
                data = {"id": "some/one", "sha": COMMIT, "siblings": []}
            elif "/tree/" in path:
                data = tree
            else:
                file = path.rpartition("/")[2]
                data = contents[file][:-1] + b"x" if file == damaged else contents[file]
                name = f'"{names[file]}"'
                return self.answer(200, data, {"ETag": name, "X-Repo-Commit": COMMIT})
            self.answer_json(data)

        do_HEAD = do_GET  # noqa: N815

    with serve(Hub, patch):
        yield


def test_a_model_is_downloaded_from_the_hub_once(source, monkeypatch):
    with fake_hub(source, monkeypatch):
        model = find_model("some/one")
    assert model.revision == COMMIT and model.digest == find_model(str(source)).digest
    assert find_model("some/one") == model  # the hub is gone


def test_what_the_hub_refuses_and_what_arrives_damaged_are_sentences(source, monkeypatch):
    with fake_hub(source, monkeypatch, damaged="config.json"):
        with pytest.raises(TinygifError, match=r"of no/one \(revision main\), the hub says: .*404"):
            find_model("no/one")
        with pytest.raises(TinygifError, match="config.json to have the hash .*Delete"):
            find_model("some/one")


@pytest.mark.parametrize("revision", ["../../../../secret", "SECRET", "..", "\0", "a/../b"])
def test_a_revision_leads_to_no_file_outside_of_the_cache(tmp_path, monkeypatch, revision):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "secret").write_text("0" * 40)
    (tmp_path / "hub" / "models--some--one" / "refs").mkdir(parents=True)
    revision = revision.replace("SECRET", str(tmp_path / "secret"))
    with pytest.raises(TinygifError, match="expected a commit or branch of some/one, got"):
        find_model("some/one", revision)


# ---- our own models --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder, as train.py writes it."""
    folder = tmp_path_factory.mktemp("mine")
    for part in ("metrics", "samples"):
        (folder / part).mkdir()
    checkpoint.write(folder / MODEL, tiny.state().ema, tiny.ABOUT._replace(step=1200))
    write_gif(folder / "samples" / "000020.gif", np.zeros((4, 16, 16, 1), np.uint8))
    (folder / "log.jsonl").write_text('{"step": 1200, "seconds": 600.0, "tflop": 12.0}\n')
    row = {"n": 8, "digit": {"percent": 75.0, "low": 40.9, "high": 92.9}}
    metrics = json.dumps({"table": {"one digit, all": {"generated": row}}})
    (folder / "metrics" / "metrics.json").write_text(metrics)
    return folder


@contextmanager
def open_hub(patch: pytest.MonkeyPatch):
    """A hub that takes what is pushed, in a dictionary, and gives it to others."""
    files: dict[str, bytes] = {}

    class Hub(Answers):
        def do_GET(self) -> None:  # noqa: N802
            path = self.path.partition("?")[0]
            if "/resolve/" in path:
                name = path.partition("/resolve/")[2].partition("/")[2]
                tag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
                return self.answer(200, files[name], {"ETag": tag, "X-Repo-Commit": COMMIT})
            siblings = [{"rfilename": name} for name in files]
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in files.items()]  # fmt: skip
            info = {"id": "some/one", "sha": COMMIT, "siblings": siblings}
            self.answer_json(tree if "/tree/" in path else info)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:  # noqa: N802
            body = b"".join(self.read_body())
            if self.path.endswith("/repos/create"):
                self.answer_json({"url": "https://huggingface.co/some/one", "name": "some/one"})
            elif "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                kinds = [{"path": name, "uploadMode": "regular", "shouldIgnore": False}
                         for name in names]  # fmt: skip
                self.answer_json({"files": kinds})
            elif "/commit/" not in self.path:
                self.answer_json({"errors": [], "warnings": []})  # the card's first lines are right
            else:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        files[value["path"]] = base64.b64decode(value["content"])
                self.answer_json({"commitUrl": "https://huggingface.co/some/one/commit/" + COMMIT,
                                  "commitOid": COMMIT})  # fmt: skip

        def read_body(self) -> Iterator[bytes]:
            if "Content-Length" in self.headers:
                yield self.rfile.read(int(self.headers["Content-Length"]))
                return
            while size := int(self.rfile.readline(), 16):  # chunks
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

    with serve(Hub, patch):
        yield files


def test_what_is_pushed_can_be_loaded(run, monkeypatch, capsys):
    """The weights in half precision, a card with the run's own numbers, a GIF; nothing else."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no page
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with open_hub(monkeypatch) as files:
        push(Push("push", run, "some/one"))
        assert set(files) == {MODEL, "README.md", "samples.gif"}
        text = files["README.md"].decode()
        loaded = tinygif.load("some/one")
    for words in ("license: cc-by-sa-3.0", "1,200 steps, 10 minutes, 12 TFLOP",
                  "| one digit, all | 8 | 75.0 [41, 93] |", "--checkpoint some/one", "--width 16",
                  "--levels time ''", "4 frames of 16x16 pixels"):  # fmt: skip
        assert words in text, words
    assert str(run.parent) not in text
    names = tiny.leaves(loaded.model)
    for name, leaf in tiny.leaves(tiny.state().ema).items():
        np.testing.assert_allclose(names[name], leaf, rtol=1e-3, atol=1e-4)
    assert tinygif.load("some/one@main").path == loaded.path  # the hub is gone


def test_the_command_in_the_card_gives_the_same_settings(monkeypatch):
    """What its flags say is read by train.py's own parser."""
    words = shlex.split(command_of(tiny.ABOUT.config).replace("\\\n", " "))
    config = tiny.load_script(monkeypatch).parse(words[2:])
    for section in ("codec", "model", "diffusion", "train", "sample"):
        assert getattr(config, section) == getattr(tiny.ABOUT.config, section)


def test_the_command_in_the_card_tells_no_paths():
    data = replace(tiny.CONFIG.data, dataset="/home/me/my gifs", images="/home/me/stills")
    command = command_of(replace(tiny.CONFIG, data=data))
    assert "--dataset 'my gifs'" in command and "/home" not in command


@pytest.mark.parametrize(("name", "says"), [
    ("one", "expected user/name, got 'one'"), ("a/b/c", "expected user/name"),
    ("a b/c", "expected user/name, got 'a b/c'"),
    ("some/one", "could not push to some/one: .*hf auth login"),
])  # fmt: skip
def test_what_cannot_be_pushed_is_told(run, monkeypatch, name, says):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TinygifError, match=says):
        push(Push("push", run, name))


def test_a_folder_that_is_no_run_is_not_pushed(tmp_path):
    with pytest.raises(TinygifError, match="a run's folder with a model.safetensors"):
        push(Push("push", tmp_path, "some/one"))


def test_what_is_neither_here_nor_on_the_hub_is_told():
    with pytest.raises(TinygifError, match="expected model.safetensors of no/such .*There is none"):
        tinygif.load("no/such")
