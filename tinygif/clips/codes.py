"""The codes of a prepared folder's clips, computed once and kept beside them. Lesson 14.

So a training step never runs the encoder, which for large clips costs more than the model.
"""

import hashlib
import json
import os
from pathlib import Path

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Float16, UInt8

from tinygif.checkpoint import digest, named
from tinygif.clips.prepare import CLIPS, map_clips, read_report
from tinygif.data import in_channels
from tinygif.errors import TinygifError
from tinygif.files import check_room, lock, whole_file
from tinygif.latents import FrameCodec, in_chunks


def map_codes(
    folder: Path, codec: FrameCodec, mirrored: bool = False
) -> Float16[np.ndarray, "clips f z y x"] | None:
    """The codes of all clips of a folder, or of their mirror images, mapped into memory.

    They are computed by the first call. The file's name holds a hash of the clips and the codec:
    another codec encodes anew, and the codes of the one before are deleted. None if the folder
    cannot be written to. Raises TinygifError for a damaged file, and if the disk has no room.
    """
    clips, report = map_clips(folder), read_report(folder)
    kind = "mirrored" if mirrored else "clips"
    arrays = {name: np.asarray(leaf) for name, leaf in named(codec).items()}
    made_of = json.dumps([report["key"], report["sha256"].get(CLIPS), kind, digest(arrays)])
    path = folder / f"codes-{kind}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npy"
    shape = (len(clips), *codec.shape(clips.shape[1], clips.shape[2]))
    if not path.exists():
        if not os.access(folder, os.W_OK):
            return None
        check_room(folder, 2 * int(np.prod(shape)), f"the codes of {len(clips)} clips")
        with lock(folder / ".codes.lock", f"another process encodes {folder}; waiting for it"):
            if not path.exists():
                write_codes(path, clips, codec, mirrored, shape)
                for old in set(folder.glob(f"codes-{kind}-*.npy")) - {path}:
                    old.unlink()
    try:
        codes = np.load(path, mmap_mode="r")
        if codes.shape != shape or codes.dtype != np.float16:
            raise ValueError(f"{codes.dtype} {codes.shape} instead of float16 {shape}")
    except (OSError, EOFError, ValueError) as error:
        raise TinygifError(
            f"{path} is damaged ({error}): delete it, and the clips are encoded again"
        ) from error
    return codes


@eqx.filter_jit
def encode_clip(
    codec: FrameCodec, clip: UInt8[Array, "f h w c"]
) -> Float[Array, "f z y x"]:  # fmt: skip
    """A clip to its code."""
    return codec.encode(clip)


def write_codes(
    path: Path, clips: UInt8[np.ndarray, "clips f h w 3"], codec: FrameCodec, mirrored: bool,
    shape: tuple[int, ...],
) -> None:  # fmt: skip
    """Encode all clips into one array file."""
    from tqdm import tqdm

    with whole_file(path) as file:  # no memory map: on a full disk it kills the process
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for clip in tqdm(clips, "encoding", unit="clip"):
            frames = in_channels(clip[:, :, ::-1] if mirrored else clip, codec.pixels.channels)
            codes = in_chunks(lambda frames: encode_clip(codec, frames), frames)
            file.write(np.ascontiguousarray(codes, np.float16).data)
