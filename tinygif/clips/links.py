"""Download the GIFs of a list of links, such as TGIF's, once; dead links are skipped. Lesson 14.

The links come from files that somebody else wrote, so only public addresses are allowed.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from urllib.error import HTTPError

from tinygif.errors import TinygifError
from tinygif.files import fetch, lock, write_whole
from tinygif.gif import MAX_BYTES

TRIES, TIMEOUT, LONGEST = 3, 10.0, 60.0  # attempts; seconds without a byte; seconds in all
RATE, THREADS = 8.0, 8  # requests begun in a second; requests at once
MAX_SILENT = 50  # this many links in a row without an answer mean that there is no network
BUSY, GONE = (408, 425, 429, 500, 502, 503, 504), (404, 410)  # HTTP status codes
FOR_GOOD, FOR_NOW = ("dead link", "too large"), ("refused", "no answer")
"""The first words of the reason why a link gave no GIF: of permanent and of temporary reasons."""


def file_name(url: str) -> str:
    """The name that the GIF of a link has in the cache."""
    return hashlib.blake2b(url.encode(), digest_size=12).hexdigest() + ".gif"


def download_gifs(urls: list[str], folder: Path) -> dict[str, str]:
    """Download the GIFs that the folder lacks; returns the links that gave none, with the reasons.

    `dead_links.jsonl` keeps the links that are dead for good. So a call that was stopped can be
    continued, and another call asks again only for links that failed for a temporary reason: a
    time-out, a busy server, one that asks for a password. Raises TinygifError if there seems to be
    no network.
    """
    from tqdm import tqdm

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dead_links.jsonl").touch()
    except OSError as error:
        raise TinygifError(f"cannot write to the cache ({error}): set TINYGIF_CACHE to a folder "
                           "that can be written to") from error  # fmt: skip
    with (
        lock(folder / ".lock", f"another process downloads into {folder}; waiting for it"),
        open(folder / "dead_links.jsonl", "a+") as file,
    ):
        file.seek(0)
        dead = read_dead_links(file)
        failures = {url: dead[url] for url in urls if url in dead}
        missing = [u for u in urls if u not in dead and not (folder / file_name(u)).exists()]
        silent = 0
        with contextlib.closing(fetch_gifs(missing)) as answers:
            bar = tqdm(answers, "downloading", len(missing), disable=not missing)
            for url, data, why in bar:
                if data:
                    write_whole(folder / file_name(url), data)
                else:
                    failures[url] = why
                if why.startswith(FOR_GOOD):
                    print("\n" + json.dumps({"url": url, "why": why}), file=file, flush=True)
                silent = silent + 1 if why.startswith("no answer") else 0
                if silent == MAX_SILENT:
                    raise TinygifError(
                        f"{silent} links one after another failed, the last with: {why}. Is there "
                        "a network, or does it ask for a login first? The same command continues "
                        "from here."
                    )
    return failures


def read_dead_links(lines: Iterable[str]) -> dict[str, str]:
    """Links and why they are dead; a line that was cut short by a kill is skipped."""
    dead = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            dead[row["url"]] = row["why"]
    return dead


def fetch_gifs(urls: list[str]) -> Iterator[tuple[str, bytes | None, str]]:
    """What `fetch_gif` returns for each link, in the order of the answers, from several threads.

    If the caller stops early, it does not wait for the requests that are under way.
    """
    stop = threading.Event()
    with ThreadPool(THREADS) as pool:  # its threads do not keep a process that ends
        try:
            yield from pool.imap_unordered(lambda url: (url, *fetch_gif(url, stop)), urls)
        finally:
            stop.set()


def fetch_gif(url: str, stop: threading.Event) -> tuple[bytes | None, str]:
    """The bytes of a GIF; or None, and why there is none: a reason FOR_GOOD or FOR_NOW."""
    why = "no answer: stopped"
    for attempt in range(TRIES):
        if stop.wait(TIMEOUT / 4 * attempt):
            break
        wait_for_turn()
        try:
            data = fetch(url, most=MAX_BYTES, timeout=TIMEOUT, longest=LONGEST, public=True)
        except HTTPError as error:
            if error.code not in BUSY:
                return None, f"{'dead link' if error.code in GONE else 'refused'}: {error.code}"
            why = f"no answer: {error.code}"
        except OSError as error:
            reason = getattr(error, "reason", error)
            why = f"no answer: {reason}"
            if isinstance(reason, PermissionError):  # no public address: trying again is useless
                break
        else:
            if len(data) > MAX_BYTES:
                return None, f"too large: more than {MAX_BYTES} bytes"
            if data.startswith(b"GIF8"):
                return data, ""
            return None, "no answer: what came is no GIF"
    return None, why


TURN = threading.Lock()


def wait_for_turn() -> None:
    """Return at most `RATE` times a second, whichever thread calls: servers are not flooded."""
    with TURN:
        time.sleep(1 / RATE)
