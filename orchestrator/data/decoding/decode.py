"""Bytes of a member -> a value, by a table of our own. Comes after samples.py has read and checked them; fields.py
calls it for every field.

Values own their memory: nothing keeps a shard's bytes alive. Nothing here runs code that is in the data."""

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from orchestrator.config.problems import nearest
from orchestrator.core.dotted import find_function, is_dotted
from orchestrator.core.errors import ConfigError
from orchestrator.data.decoding.images import decode_grey, decode_rgb, decode_stored

Bytes = bytes | memoryview
Decoder = Callable[[Bytes], Any]
MOST_UNPACKED_BYTES = 2**30  # of one npz, whose few bytes may promise terabytes


class Undecodable(Exception):
    """These bytes cannot become a value; the sample becomes a hole. Users' functions may raise it too."""


def decode(decoder: Decoder, data: Bytes) -> Any:
    """The value of these bytes; whatever is wrong with them is Undecodable, in the decoder's own words."""
    try:
        return decoder(data)
    except (MemoryError, Undecodable):
        raise
    except Exception as error:
        raise Undecodable(f"{type(error).__name__}: {error}") from error


def decode_text(data: Bytes) -> str:
    return str(data, "utf-8")


def decode_json(data: Bytes) -> Any:
    return json.loads(str(data, "utf-8"))


def decode_int(data: Bytes) -> int:
    number = int(bytes(data))
    if not -(2**63) <= number < 2**63:
        raise Undecodable(f"{number} does not fit into 64 bits")
    return number


def decode_float(data: Bytes) -> float:
    return float(bytes(data))


def decode_npy(data: Bytes) -> NDArray[Any]:
    """An array as numpy.save writes it, without objects."""
    stream = BytesIO(data)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise Undecodable(f"npy version {version[0]}.{version[1]}; 1.0 and 2.0 are read")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, in_columns, dtype = read_header(stream)
    if dtype.hasobject:
        raise Undecodable("it holds Python objects, and reading those runs code")
    # The header is believed only if the bytes are there: it may promise more than fits into memory.
    begin, count = stream.tell(), math.prod(shape)
    if count * dtype.itemsize != len(data) - begin:
        raise Undecodable(f"its header says {dtype} of shape {shape}, and {len(data) - begin} bytes follow")
    values = np.frombuffer(data, dtype, count, begin) if count else np.empty(0, dtype)
    return values.copy().reshape(shape, order="F" if in_columns else "C")


def decode_npz(data: Bytes) -> dict[str, NDArray[Any]]:
    """Arrays by name, as numpy.savez writes them."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MOST_UNPACKED_BYTES:
            raise Undecodable(f"it unpacks to {unpacked} bytes; at most {MOST_UNPACKED_BYTES} are taken")
        return {name.removesuffix(".npy"): decode_npy(archive.read(name)) for name in archive.namelist()}


DECODERS: Mapping[str, Decoder] = {
    "text": decode_text,
    "json": decode_json,
    "int": decode_int,
    "float": decode_float,
    "image": decode_rgb,
    "image_grey": decode_grey,
    "image_stored": decode_stored,
    "npy": decode_npy,
    "npz": decode_npz,
    "bytes": bytes,
}
# What `auto` takes, by the last part of the suffix; text and numbers as webdataset has them.
SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(("txt", "text", "transcript"), "text"),
    **dict.fromkeys(("json", "jsn"), "json"),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), "int"),
    **dict.fromkeys(
        ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "ppm", "pgm", "pbm", "pnm", "tif", "tiff"), "image"
    ),
    "npy": "npy",
    "npz": "npz",
    "bin": "bytes",
}
PICKLES = frozenset({"pkl", "pickle", "pyd", "pth", "pt"})


def decoder_for(name: str, suffix: str, key: str = "data.fields") -> Decoder:
    """The decoder that `decode: name` means for a member of this suffix; `key` is where the config says so."""
    ending = suffix.rpartition(".")[2]
    if is_dotted(name):
        return find_function(name, key)
    if name != "auto":
        return _look_up(name, key)
    if ending in PICKLES:
        raise ConfigError(
            f"'{suffix}' members are pickles, and reading one runs code that is in the data",
            where=key,
            remedy="write the values as npy, npz or json, or name a function of your own with decode",
        )
    if ending not in SUFFIXES:
        raise ConfigError(
            f"no decoder is known for '{suffix}' members{nearest(ending, SUFFIXES)}",
            where=key,
            remedy=f"set decode to one of {', '.join(DECODERS)}, or to a function's dotted name",
        )
    return DECODERS[SUFFIXES[ending]]


def _look_up(name: str, key: str) -> Decoder:
    if name not in DECODERS:
        raise ConfigError(
            f"there is no decoder '{name}'{nearest(name, DECODERS)}",
            where=key,
            remedy=f"auto, one of {', '.join(DECODERS)}, or a function's dotted name",
        )
    return DECODERS[name]
