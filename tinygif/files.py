"""Files that are whole or not there: the cache folder, writes, downloads, locks, room, hashes.

Lesson 15.
"""

import contextlib
import glob
import hashlib
import os
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO

from tinygif.errors import TinygifError


def cache_dir() -> Path:
    """Where downloads and compiled programs are kept: $TINYGIF_CACHE, else ~/.cache/tinygif."""
    return Path(os.environ.get("TINYGIF_CACHE", "~/.cache/tinygif")).expanduser()


# ---- writing ---------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write; it takes the place of `path` when the block ends well, else it vanishes.

    Who reads `path` meanwhile sees the old file or the new one. File and folder are synced, so
    that it also holds when the machine stops. Raises TinygifError where it cannot be written.
    """
    remove_orphans(path)
    part = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise TinygifError(
            f"could not write {path} ({error.strerror or error}); what was there before is "
            "untouched. Free some space, or choose another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file all at once or not at all; see `whole_file`."""
    with whole_file(path) as file:
        file.write(data)


def remove_orphans(path: Path) -> None:
    """Delete what processes on this machine left half written when they were killed."""
    here = f".{path.name}.{socket.gethostname()}-"
    for part in path.parent.glob(f"{glob.escape(here)}*.part"):
        pid = part.name.removeprefix(here).removesuffix(".part")
        if pid.isdigit() and os.name == "posix":
            try:
                os.kill(int(pid), 0)  # signal 0 only asks whether there is such a process
            except ProcessLookupError:
                part.unlink(missing_ok=True)
            except PermissionError:
                pass  # there is, somebody else's


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on disk: after a rename, without it, the old name may return."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_room(folder: Path, size: int, what: str) -> None:
    """Make the folder, and refuse it if it cannot be written to or lacks `size` bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"tinygif")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise TinygifError(
            f"cannot write to {folder} ({error.strerror}): choose another --out"
        ) from error
    if free < size:
        raise TinygifError(
            f"{folder} has {free / 1e6:.0f} MB free, {what} may need {size / 1e6:.0f} MB: free "
            "some space or choose another --out"
        )


@contextlib.contextmanager
def lock(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Hold a lock file, which ends with the process.

    If another process has it: wait, after printing `waiting`; or without one raise TinygifError.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        if waiting is None:
            raise TinygifError(f"another process works in {path.parent}: wait until it ends, or "
                               "choose another --out") from error  # fmt: skip
        print(waiting, flush=True)
        held.acquire()
    try:
        yield
    finally:
        held.release()


# ---- reading ---------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    url: str, *, title: str | None = None, most: int | None = None, timeout: float = 10.0,
    longest: float | None = None,
) -> bytes:  # fmt: skip
    """The bytes that a link answers with; under a progress bar if it has a title.

    most: stop after more than so many bytes. timeout: seconds without a byte; longest: seconds in
    all. Raises OSError if there is no answer, or one that is cut short or too slow; HTTPError,
    which is one, where a server refuses.
    """
    from tqdm import tqdm

    began, parts, size = time.monotonic(), [], 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "tinygif"})
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            length = reply.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            with tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=not title) as bar:
                while (most is None or size <= most) and (part := reply.read1(1 << 16)):
                    parts.append(part)
                    size += len(part)
                    bar.update(len(part))
                    if longest is not None and time.monotonic() - began > longest:
                        raise TimeoutError("too slow")
    except (HTTPException, ValueError) as error:
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
    if total is not None and size < total and (most is None or size <= most):
        raise ConnectionError(f"cut short after {size} of {total} bytes")
    return b"".join(parts)


def download(links: list[str], path: Path, digest: str) -> None:
    """Fetch a file from the first link that has it whole, by its SHA-256.

    Raises OSError with the last reason where none has it.
    """
    reason = ""
    for link in links:
        try:
            data = fetch(link, title=path.name, timeout=5.0)
        except OSError as error:
            reason = " ".join(str(error).split())  # a server's words may hold line ends
        else:
            if hashlib.sha256(data).hexdigest() == digest:
                path.parent.mkdir(parents=True, exist_ok=True)
                return write_whole(path, data)
            reason = f"it arrived damaged, its SHA-256 is not {digest}"
    raise OSError(f"no link gave {path.name}: {reason}")
