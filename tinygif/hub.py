"""Where pretrained models come from: a folder, the hub's cache, or the hub. Lesson 10."""

import hashlib
import re
import threading
import urllib.error
import urllib.request
from functools import lru_cache, partial
from pathlib import Path

from tinygif.pretrained import TowerError

KNOWN = {
    # on its main branch there is no safetensors file
    "clip": ("openai/clip-vit-base-patch32", "refs/pr/15"),
    "bert": ("google-bert/bert-base-cased", "main"),
}
"""Short names: hub id and revision."""
FILES = ("config.json", "tokenizer.json", "model.safetensors")


def find(name: str, revision: str | None = None) -> tuple[Path, str, str]:
    """The folder of a model, the name to find it by again, and its exact revision.

    name: one of KNOWN, a folder, or a hub id. The revision is the commit of a hub model, or for a
    folder the SHA-256 of its weights; another than the one asked for is refused.
    """
    name, default = KNOWN.get(name, (name, "main"))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = fetch(name, revision or default)
        return folder, name, folder.name
    if missing := lacking(folder):
        raise TowerError(f"expected {', '.join(FILES)} in {folder}, got no {', '.join(missing)}")
    found = fingerprint(folder / FILES[-1], (folder / FILES[-1]).stat().st_mtime_ns)
    if revision not in (None, found):
        raise TowerError(
            f"expected the weights in {folder} to have SHA-256 {revision}, got {found}: they are "
            "others than the text-to-GIF model was trained with; put those back"
        )
    return folder, str(folder.resolve()), found


def lacking(folder: Path) -> list[str]:
    """Which of FILES a folder does not have."""
    return [file for file in FILES if not (folder / file).exists()]


@lru_cache
def fingerprint(path: Path, time: int) -> str:
    """SHA-256 of a file; it is read again when its time has changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(name: str, revision: str) -> Path:
    """The folder of a hub model: out of the hub's cache, else downloaded."""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise TowerError(f"expected words, {', '.join(KNOWN)}, a folder or a hub id, got {name!r}")
    from huggingface_hub import constants, snapshot_download

    get = partial(snapshot_download, name, revision=revision, allow_patterns=list(FILES))
    try:
        folder = Path(get(local_files_only=True))
        if not lacking(folder):
            return folder
    except (OSError, ValueError):
        pass  # nothing of it is here
    wanted = f"{', '.join(FILES)} of {name} (revision {revision})"
    if not reachable(constants.ENDPOINT, constants.HF_HUB_OFFLINE):
        raise TowerError(
            f"expected {wanted}, got nothing in {constants.HF_HUB_CACHE} and no connection to "
            f"{constants.ENDPOINT}. On a connected machine: hf download {name} {' '.join(FILES)} "
            f"--revision {revision}; then copy it from that cache to the one here. Or train with "
            "--text words."
        )
    try:
        folder = Path(get())
    except Exception as error:  # the hub has many kinds of them
        reason = str(error).strip().partition("\n")[0]
        raise TowerError(f"expected {wanted}, the hub says: {reason}") from error
    if missing := lacking(folder):
        raise TowerError(
            f"expected {wanted}, got no {', '.join(missing)}: name a --text-revision that has all, "
            "or a folder"
        )
    return folder


def reachable(address: str, offline: bool, seconds: float = 5.0) -> bool:
    """Does the hub answer at once? Its own client tries for half a minute a file."""
    answers = []

    def knock() -> None:
        try:
            urllib.request.urlopen(address, timeout=seconds).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except (OSError, ValueError):
            pass

    if offline:
        return False
    thread = threading.Thread(target=knock, daemon=True)  # looking a name up knows no timeout
    thread.start()
    thread.join(seconds)
    return bool(answers)
