"""Where pretrained models come from: a folder, the hub's cache, or the hub. Lesson 10.

    python -m tinygif.hub push runs/NAME user/name      # and where yours go: see publish.py
"""

import hashlib
import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tinygif.errors import TinygifError, expect
from tinygif.files import sha256

MODEL_FILES = {"config.json": 2**20, "tokenizer.json": 2**27, "model.safetensors": 2**35}
"""The files of a model, and how many bytes each may have: 1 MiB, 128 MiB, 32 GiB."""
KNOWN_MODELS = {"clip": "openai/clip-vit-base-patch32", "bert": "google-bert/bert-base-cased"}
"""Short names, and what the hub calls these models."""
PINNED = {
    # the conversion to safetensors, pull request 15: the main branch has no such file
    "openai/clip-vit-base-patch32": "b33cedfd0df4e43b8238760678fcc89e1a0d38b3",
    "google-bert/bert-base-cased": "cd5ef92a9fb2f889e972770a36d4ed042daf221e",
}
"""The commit of a model on the hub. Branches and pull requests can move, a commit cannot."""
SHA256 = {
    PINNED["openai/clip-vit-base-patch32"]: {
        "config.json": "b575ef3c36f2a057fa19e221650105052d61cc9c1a972ec15019c6261ec98770",
        "tokenizer.json": "b556ac8c99757ffb677208af34bc8c6721572114111a6e0aaf5fa69ff0b8d842",
        "model.safetensors": "99d28a652e6ec46629ab7047a0ac82c69b1fe11e0ce672c43af65d3a9a3fc05d",
    },
}
"""By commit, the SHA-256 of files, as several projects that use this commit publish them. There are
none for BERT: its commit is pinned, its files are checked like those of every other model."""
SECONDS = 5.0
"""How long the hub may take to answer. The look-up of its address comes on top of that."""


class Model(NamedTuple):
    """A pretrained model on this machine."""

    folder: Path
    name: str
    """What finds it again: the id on the hub, or the whole path of a folder."""
    revision: str
    """The commit of a hub model; of a folder the `digest`."""
    digest: str
    """SHA-256 of all three files: of lines with their names and their own SHA-256."""


def find_model(name: str, revision: str | None = None) -> Model:
    """The model of this name, downloaded if it must be.

    name: one of KNOWN_MODELS, a folder, or a hub id. revision: a commit or branch of a hub model;
    for a folder a digest that it must have. Checkpoints of older versions hold the SHA-256 of the
    weights alone, which serves too. Raises TinygifError if the model is not there, is damaged, or
    is another than the revision says.
    """
    name = KNOWN_MODELS.get(name, name)
    folder = os.path.expanduser(name)
    if not os.path.isdir(folder):
        folder = fetch_model(name, revision or PINNED.get(name, "main"))
        digests = file_digests(folder)
        check_files(folder, digests)
        return Model(folder, name, folder.name, joint_digest(digests))
    folder = Path(folder).resolve()
    missing = missing_files(folder)
    expect(not missing, f"{', '.join(MODEL_FILES)} in {folder}", f"no {', '.join(missing)}")
    digests = file_digests(folder)
    digest = joint_digest(digests)
    fits = revision in (None, digest, digests["model.safetensors"])
    got = f"{digest}: the text-to-GIF model was trained with others; put those back"
    expect(fits, f"the files in {folder} to have SHA-256 {revision}", got)
    return Model(folder, str(folder), digest, digest)


def missing_files(folder: Path, files: Iterable[str] = MODEL_FILES) -> list[str]:
    """The names that a folder does not have as files."""
    return [file for file in files if not (folder / file).is_file()]


# ---- the hub ---------------------------------------------------------------------------------


def fetch_model(
    name: str, revision: str, files: Iterable[str] = MODEL_FILES,
    advice: str = "Or train with --text words.",
) -> Path:  # fmt: skip
    """The folder with these files of a hub model: the hub's cache if it has them, else a download.

    Raises TinygifError, which says how to get the model, if the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise TinygifError(
            f"expected words, {', '.join(KNOWN_MODELS)}, a folder or a hub id, got {name[:200]!r}"
        ) from error
    # the hub's client reads the file that a revision names in its cache, wherever it leads
    is_name = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", revision) is not None
    expect(is_name, f"a commit or branch of {name}", repr(revision[:200]))
    get = partial(snapshot_download, name, revision=revision, allow_patterns=list(files))
    try:
        folder = Path(get(local_files_only=True))
        if not missing_files(folder, files):
            return folder
    except (OSError, ValueError):
        pass  # the cache has nothing of it
    wanted = f"{', '.join(files)} of {name} (revision {revision})"
    answered = False
    try:
        # one question with a time-out first: a download tries a silent hub for half a minute
        HfApi().model_info(name, revision=revision, timeout=SECONDS)
        answered = True
        folder = Path(get(etag_timeout=SECONDS))
    except Exception as error:  # the hub's client raises many kinds
        if answered or isinstance(error, HfHubHTTPError):
            reason = str(error).strip().partition("\n")[0]
            raise TinygifError(f"expected {wanted}, the hub says: {reason}") from error
        raise TinygifError(
            f"expected {wanted}, got nothing in {constants.HF_HUB_CACHE} and no connection to "
            f"{constants.ENDPOINT}. On a connected machine: hf download {name} "
            f"{' '.join(files)} --revision {revision}; then copy it from that cache to the one "
            f"here. {advice}"
        ) from error
    missing = ", ".join(missing_files(folder, files))
    expect(not missing, wanted, f"no {missing}: name a revision that has all of them, or a folder")
    return folder


# ---- hashes ----------------------------------------------------------------------------------


def file_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each of the MODEL_FILES. Raises TinygifError for a file that is too large."""
    digests = {}
    for name, most in MODEL_FILES.items():
        path = folder / name
        try:
            size = path.stat().st_size
            expect(size <= most, f"at most {most} bytes in {path}", size)
            digests[name] = sha256(path)
        except OSError as error:
            raise TinygifError(f"cannot read {path} ({error.strerror})") from error
    return digests


def joint_digest(digests: dict[str, str]) -> str:
    """One SHA-256 over those of several files."""
    lines = (f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_files(folder: Path, digests: dict[str, str]) -> None:
    """Refuse files of a hub model that are not those of its commit. Raises TinygifError.

    What is pinned is compared with SHA256. For others the hub's cache is asked: it keeps a large
    file under its SHA-256 and a small one under git's hash, and links to them. Where the cache has
    no links (on Windows, or in a copy), such files are not checked.
    """
    from huggingface_hub.utils.sha import git_hash

    for name, digest in digests.items():
        path = (folder / name).resolve()
        wanted, got = SHA256.get(folder.name, {}).get(name), digest
        if wanted is None and re.fullmatch("[0-9a-f]{64}", path.name):
            wanted = path.name
        elif wanted is None and re.fullmatch("[0-9a-f]{40}", path.name):
            wanted, got = path.name, git_hash(path.read_bytes())
        if wanted not in (None, got):
            raise TinygifError(
                f"expected {folder / name} to have the hash {wanted}, got {got}: it is damaged, or "
                f"not what it says. Delete {path}, and it is downloaded again."
            )


if __name__ == "__main__":
    import tyro

    from tinygif.errors import run_command
    from tinygif.publish import Push, push

    run_command("tinygif.hub", lambda: push(tyro.cli(Push)))
