"""Where pretrained models come from: a folder, the hub's cache, or the hub. Lesson 10."""

import re
import threading
from functools import lru_cache, partial
from pathlib import Path
from urllib.error import HTTPError

from tinygif.errors import TinygifError
from tinygif.files import fetch, sha256

KNOWN_MODELS = {
    # on its main branch there is no safetensors file
    "clip": ("openai/clip-vit-base-patch32", "refs/pr/15"),
    "bert": ("google-bert/bert-base-cased", "main"),
}
"""Short names, each with hub id and revision."""
MODEL_FILES = ("config.json", "tokenizer.json", "model.safetensors")


def find_model(name: str, revision: str | None = None) -> tuple[Path, str, str]:
    """The folder of a model, the name that finds it again from anywhere, and its exact revision.

    name: one of KNOWN_MODELS, a folder, or a hub id. The exact revision of a hub model is a commit,
    that of a folder the SHA-256 of its weights. Raises TinygifError if the model is not there, or
    if a folder's weights do not have the `revision` that is asked for.
    """
    name, default_revision = KNOWN_MODELS.get(name, (name, "main"))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = fetch_model(name, revision or default_revision)
        return folder, name, folder.name
    if missing := missing_files(folder):
        raise TinygifError(
            f"expected {', '.join(MODEL_FILES)} in {folder}, got no {', '.join(missing)}"
        )
    weights = folder / "model.safetensors"
    digest = weights_digest(weights, weights.stat().st_mtime_ns)
    if revision not in (None, digest):
        raise TinygifError(
            f"expected the weights in {folder} to have SHA-256 {revision}, got {digest}: the "
            "text-to-GIF model was trained with other weights; put those back"
        )
    return folder, str(folder.resolve()), digest


def missing_files(folder: Path) -> list[str]:
    """The names in MODEL_FILES that a folder does not have."""
    return [file for file in MODEL_FILES if not (folder / file).exists()]


@lru_cache
def weights_digest(path: Path, modified: int) -> str:
    """SHA-256 of a file. It is read again only after its time of modification has changed."""
    return sha256(path)


def fetch_model(name: str, revision: str) -> Path:
    """The folder of a hub model, from the hub's cache if it is there, else downloaded.

    Raises TinygifError, which says how to get the model, if the hub cannot be reached.
    """
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        known = ", ".join(KNOWN_MODELS)
        raise TinygifError(f"expected words, {known}, a folder or a hub id, got {name!r}")
    from huggingface_hub import constants, snapshot_download

    get = partial(snapshot_download, name, revision=revision, allow_patterns=list(MODEL_FILES))
    try:
        folder = Path(get(local_files_only=True))
        if not missing_files(folder):
            return folder
    except (OSError, ValueError):
        pass  # the cache has nothing of it
    wanted = f"{', '.join(MODEL_FILES)} of {name} (revision {revision})"
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise TinygifError(
            f"expected {wanted}, got nothing in {constants.HF_HUB_CACHE} and no connection to "
            f"{constants.ENDPOINT}. On a connected machine: hf download {name} "
            f"{' '.join(MODEL_FILES)} --revision {revision}; then copy it from that cache to the "
            "one here. Or train with --text words."
        )
    try:
        folder = Path(get())
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().partition("\n")[0]
        raise TinygifError(f"expected {wanted}, the hub says: {reason}") from error
    if missing := missing_files(folder):
        raise TinygifError(
            f"expected {wanted}, got no {', '.join(missing)}: name a --text-revision that has all "
            "of them, or a folder"
        )
    return folder


def reachable(address: str, seconds: float = 5.0) -> bool:
    """Does a server answer within so many seconds? The hub's client tries half a minute a file."""
    answers = []

    def knock() -> None:
        try:
            fetch(address, most=0, timeout=seconds)
            answers.append(True)
        except HTTPError:
            answers.append(True)  # it answers, if only to refuse
        except OSError:
            pass

    thread = threading.Thread(target=knock, daemon=True)  # resolving a name has no timeout
    thread.start()
    thread.join(seconds)
    return bool(answers)
