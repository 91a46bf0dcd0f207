"""Files that are complete or absent, never half written: cache, writes, downloads, locks, hashes.

Lesson 15.
"""

import contextlib
import glob
import hashlib
import ipaddress
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib import request as web
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from tinygif.errors import TinygifError


def cache_dir() -> Path:
    """Where downloads and compiled programs are kept: $TINYGIF_CACHE, else ~/.cache/tinygif.

    Raises TinygifError where there is no home directory to put it in.
    """
    chosen = os.environ.get("TINYGIF_CACHE") or "~/.cache/tinygif"
    try:
        return Path(chosen).expanduser()
    except RuntimeError as error:  # so says pathlib
        raise TinygifError(
            f"found no home directory for {chosen}: set TINYGIF_CACHE to a folder for downloads"
        ) from error


# ---- writing ---------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file to write. It replaces `path` if the block ends without error, else it goes.

    A reader of `path` sees the old file or the new one, never a part. File and folder are synced,
    so that this also holds if the machine stops. Raises TinygifError if it cannot be written.
    """
    remove_orphans(path)
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}"
    part = path.with_name(f".{path.name}.{writer}.part")
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
    """Delete the temporary files of processes of this machine that were killed while writing."""
    here = f".{path.name}.{socket.gethostname()}-"
    for part in path.parent.glob(f"{glob.escape(here)}*.part"):
        writer = re.fullmatch(r"(\d+)-\d+", part.name.removeprefix(here).removesuffix(".part"))
        if writer and os.name == "posix":
            try:
                os.kill(int(writer[1]), 0)  # signal 0 only asks whether there is such a process
            except ProcessLookupError:
                part.unlink(missing_ok=True)
            except PermissionError:
                pass  # the process exists, and belongs to another user


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on disk. Without this, a crash may undo a rename."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_room(folder: Path, size: int, what: str) -> None:
    """Make the folder; refuse it if it cannot be written to or has less than `size` bytes free."""
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
    """Hold a lock file. The lock ends with the process, even if it is killed.

    If another process holds it, print `waiting` and wait. If `waiting` is None, raise TinygifError.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout as error:
        if waiting is None:
            raise TinygifError(f"another process works in {path.parent}: wait until it ends, or "
                               "choose another --out") from error  # fmt: skip
        print(waiting, flush=True)
        while not held.is_locked:
            with contextlib.suppress(FileNotFoundError):  # its folder may just disappear
                held.acquire()
    except OSError as error:
        raise TinygifError(
            f"cannot write to {path.parent} ({error.strerror}): choose another --out"
        ) from error
    try:
        yield
    finally:
        held.release()


# ---- reading ---------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. A process reads a file again only after it has changed."""
    state = path.stat()
    return _sha256(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache
def _sha256(path: Path, modified: int, size: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(links: list[str], path: Path, digest: str) -> None:
    """Download a file from the first link whose content has the right SHA-256.

    Raises OSError, with the last reason, if no link has.
    """
    reason = ""
    for link in links:
        try:
            data = fetch(link, title=path.name, timeout=5.0)
        except OSError as error:
            reason = " ".join(str(error).split())  # a server's message may have several lines
        else:
            if hashlib.sha256(data).hexdigest() == digest:
                path.parent.mkdir(parents=True, exist_ok=True)
                return write_whole(path, data)
            reason = f"it arrived damaged, its SHA-256 is not {digest}"
    raise OSError(f"no link gave {path.name}: {reason}")


def download_folder(
    folder: Path, mirrors: Sequence[str], digests: Mapping[str, str], title: str
) -> Path:
    """The folder, after downloading those files that it lacks; `digests` has the SHA-256 of each.

    A mirror is the beginning of a link. If several runs start together, one downloads and the
    others wait, so all get the same files. Raises OSError if no mirror has a file.
    """
    from tqdm import tqdm

    if all((folder / name).exists() for name in digests):
        return folder
    waiting = f"{title}: another run downloads it; waiting"
    with lock(folder.with_name(f".{folder.name}.lock"), waiting):
        names = [name for name in digests if not (folder / name).exists()]
        for name in tqdm(names, title, disable=not sys.stderr.isatty()):
            download([mirror + name for mirror in mirrors], folder / name, digests[name])
    return folder


def fetch(
    url: str, *, title: str | None = None, most: int = 2**28, timeout: float = 10.0,
    longest: float = 600.0, public: bool = False,
) -> bytes:  # fmt: skip
    """The bytes that an http or https link answers with. With a title, shows a progress bar.

    most: stop once there are more bytes than this. timeout: how many seconds may pass without a
    byte; longest: how many in all. public: for links from data files, so that neither the link nor
    a redirect leads to this machine or its network. Raises OSError if the answer is missing, cut
    short or too slow; HTTPError, a kind of OSError, if a server refuses.
    """
    from tqdm import tqdm

    connections = _Connections(public)
    watch = threading.Timer(longest, connections.close)
    watch.daemon = True
    watch.start()
    data = bytearray()
    try:
        with connections.open(url, timeout) as reply:
            length = reply.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=not title) as bar:
                # read1 returns what has come, read would wait for more
                for part in iter(partial(reply.read1, 1 << 16), b""):
                    data += part
                    bar.update(len(part))
                    if connections.closed or len(data) > most:
                        break
            if connections.closed:
                raise TimeoutError
    except (OSError, HTTPException, ValueError) as error:
        if connections.closed and not isinstance(error, HTTPError):
            raise TimeoutError("too slow") from error
        if isinstance(error, OSError):
            raise
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
    finally:
        watch.cancel()
    if total is not None and len(data) < total and len(data) <= most:
        raise ConnectionError(f"cut short after {len(data)} of {total} bytes")
    return bytes(data)


class _Connections(web.HTTPSHandler, web.HTTPHandler):
    """Opens http and https links and follows redirects; if `public`, to public addresses only."""

    def __init__(self, public: bool):
        super().__init__()
        self.public, self.opened, self.closed = public, [], False

    def open(self, url: str, timeout: float) -> HTTPResponse:
        director = web.OpenerDirector()
        for handler in (
            self, web.ProxyHandler(), web.UnknownHandler(), web.HTTPRedirectHandler(),
            web.HTTPDefaultErrorHandler(), web.HTTPErrorProcessor(),
        ):  # fmt: skip
            director.add_handler(handler)
        return director.open(web.Request(url, headers={"User-Agent": "tinygif"}), timeout=timeout)

    def do_open(
        self, make: Callable[..., HTTPConnection], request: web.Request, **options
    ) -> HTTPResponse:
        """Called by urllib for each link, those of redirects included."""
        has_proxy = request.has_proxy() or request._tunnel_host
        if self.public and has_proxy:
            # The user's proxy makes the connection, and may know names that are unknown here.
            with contextlib.suppress(socket.gaierror):
                public_addresses(unquote(urlsplit(request.full_url).hostname or ""))

        def remember(*args, **kwargs) -> HTTPConnection:
            connection = make(*args, **kwargs)
            if self.public and not has_proxy:
                connection._create_connection = _connect
            self.opened.append(connection)
            return connection

        return super().do_open(remember, request, **options)

    def close(self) -> None:
        """End what takes too long, also a wait for headers."""
        self.closed = True
        for connection in self.opened:
            with contextlib.suppress(OSError, AttributeError):  # sock is None where nothing waits
                connection.sock.shutdown(socket.SHUT_RDWR)


def _connect(
    address: tuple[str, int], timeout: float, source: tuple | None = None
) -> socket.socket:
    """Like `socket.create_connection`, but only to public addresses."""
    host, port = address
    failure = OSError(f"{host} has no address")
    for ip in public_addresses(host):
        try:
            return socket.create_connection((ip, port), timeout, source)
        except OSError as error:
            failure = error
    raise failure


def public_addresses(host: str) -> list[str]:
    """The public addresses of a host. Raises PermissionError if it has none."""
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found = dict.fromkeys(address[0] for *_, address in answers)
    public = [address for address in found if is_public(address)]
    if not public:
        raise PermissionError(f"{host} is {', '.join(found)}, no public address")
    return public


def is_public(address: str) -> bool:
    """Whether an address is on the public internet: not this machine, its network, or reserved."""
    ip = ipaddress.ip_address(address)
    if ip in ipaddress.ip_network("64:ff9b::/96"):  # an IPv4 address in a network of IPv6 only
        ip = ipaddress.IPv4Address(int(ip) % 2**32)
    inner = getattr(ip, "sixtofour", None) or getattr(ip, "ipv4_mapped", None)
    if inner is not None:
        return is_public(str(inner))
    is_local = getattr(ip, "is_site_local", False)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or is_local)
