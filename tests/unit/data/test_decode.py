"""Bytes of every kind become values, and bytes of no kind become Undecodable in the decoder's own words."""

import io
import json
import pickle
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.core.errors import ConfigError
from orchestrator.data.decoding.decode import DECODERS, PICKLES, SUFFIXES, Undecodable, decode, decoder_for

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
RED = np.full((4, 6, 3), (200, 10, 20), np.uint8)


def saved(image, form="PNG", **options) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, form, **options)
    return file.getvalue()


def npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def why_not(name: str, data: bytes) -> str:
    with pytest.raises(Undecodable) as caught:
        decode(DECODERS[name], memoryview(data))
    return str(caught.value)


def value_of(name: str, data: bytes):
    return decode(DECODERS[name], memoryview(data))


@pytest.mark.parametrize(
    ("name", "data", "value"),
    [
        ("text", "größe\n".encode(), "größe\n"),
        ("text", b"", ""),
        ("json", b' {"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ("int", b"17\n", 17),
        ("int", b"-9223372036854775808", -(2**63)),
        ("float", b" 1.5e3 ", 1500.0),
        ("bytes", b"\x00\xff", b"\x00\xff"),
    ],
)
def test_plain_members_become_their_values(name, data, value):
    found = value_of(name, data)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("text", b"caf\xe9", "UnicodeDecodeError: 'utf-8' codec"),
        ("json", b"{", "JSONDecodeError: Expecting property name"),
        ("json", '{"a": 1}'.encode("utf-16"), "UnicodeDecodeError"),
        ("json", b"[" * 100_000, "RecursionError"),
        ("int", b"cat", "ValueError: invalid literal for int"),
        ("int", b"", "ValueError: invalid literal for int"),
        ("int", b"9223372036854775808", "9223372036854775808 does not fit into 64 bits"),
        ("float", b"1,5", "ValueError: could not convert string to float"),
        ("image", b"no picture", "UnidentifiedImageError"),
        ("npy", b"no array", "ValueError: the magic string is not correct"),
        ("npz", b"no archive", "BadZipFile: File is not a zip file"),
    ],
)
def test_bytes_of_another_kind_are_undecodable_in_the_decoders_own_words(name, data, said):
    assert why_not(name, data).startswith(said)


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=200))
def test_any_bytes_decode_or_are_undecodable(name, data):
    try:
        value_of(name, data)
    except Undecodable as reason:
        assert str(reason)  # noqa: PT017 - either way is right


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "npy", "npz"]), st.data())
def test_damaged_files_decode_or_are_undecodable(form, data):
    damaged = bytearray({"npy": npy(PIXELS), "npz": npz(a=PIXELS)}.get(form) or saved(PIXELS, form))
    for _ in range(3):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings(action="ignore"):
        try:
            value_of(form.lower() if form.startswith("n") else "image", bytes(damaged))
        except Undecodable as reason:
            assert str(reason)  # noqa: PT017 - either way is right


@pytest.mark.parametrize("stop", [MemoryError, KeyboardInterrupt])
def test_what_the_bytes_are_not_to_blame_for_passes_through(stop):
    def exhaust(data):
        raise stop

    with pytest.raises(stop):
        decode(exhaust, b"")


# ---- arrays ----


@pytest.mark.parametrize(
    "array",
    [PIXELS, np.asfortranarray(PIXELS), np.float32(3.5), np.arange(3, dtype=">i2"), np.zeros((0, 4)), np.array(["é"])],
)
def test_arrays_come_back_as_they_were_saved(array):
    for found in (value_of("npy", npy(array)), value_of("npz", npz(a=array))["a"]):
        assert np.array_equal(found, array)
        assert (found.dtype, found.shape) == (np.asarray(array).dtype, np.shape(array))


def test_arrays_own_their_memory():
    found = value_of("npy", npy(PIXELS))
    found[0] = 0  # a view of the shard would be read-only, and keep it mapped
    assert found.base is None or found.base.flags.owndata


def test_arrays_of_python_objects_are_never_read():
    said = "it holds Python objects, and reading those runs code"
    assert why_not("npy", npy(np.array([{}], object), allow_pickle=True)) == said
    assert why_not("npz", npz(a=np.array([{}], object))) == said


def test_a_header_that_promises_other_than_what_follows_is_refused_before_memory_is_taken():
    honest = npy(np.zeros(16, np.uint8))
    boast = io.BytesIO()
    np.lib.format.write_array_header_1_0(boast, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    assert "0 bytes follow" in why_not("npy", boast.getvalue())
    assert "-16" in why_not("npy", honest.replace(b"(16,), } ", b"(-16,), }"))
    why_not("npy", honest.replace(b"(16,), }  ", b"(-4, -4,)}"))
    assert "15 bytes follow" in why_not("npy", honest[:-1])
    assert "17 bytes follow" in why_not("npy", honest + b"x")


def test_an_archive_that_unpacks_to_very_much_is_refused_before_it_is_unpacked():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"x")
    data = bytearray(file.getvalue())
    at = data.index(b"PK\x01\x02") + 24  # the length that the directory promises
    data[at : at + 4] = (2**31).to_bytes(4, "little")
    assert why_not("npz", bytes(data)).startswith("it unpacks to 2147483648 bytes")


# ---- pictures ----


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_pictures_without_loss_come_back_pixel_by_pixel(form):
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(value_of("image", saved(PIXELS, form, **options)), PIXELS)


def test_jpegs_have_the_pixels_that_pillow_gives():
    data = saved(PIXELS, "JPEG")
    assert np.array_equal(value_of("image", data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_a_pictures_format_is_told_by_its_content():
    assert value_of("image", saved(PIXELS, "PNG")).shape == decode(decoder_for("auto", "jpg"), saved(PIXELS)).shape


@pytest.mark.parametrize(
    ("mode", "form", "red"),
    [("1", "PNG", 0), ("L", "PNG", 68), ("P", "PNG", 200), ("P", "GIF", 200), ("CMYK", "TIFF", 200)],
)
def test_every_kind_of_picture_becomes_rgb(mode, form, red):
    found = value_of("image", saved(Image.fromarray(RED).convert(mode, dither=Image.Dither.NONE), form))
    assert found.shape == RED.shape
    assert found.dtype == np.uint8
    assert np.all(np.abs(found[..., 0].astype(int) - red) < 30)


def test_grey_with_transparency_is_grey_and_bilevel_is_black_and_white():
    grey = np.array([[0, 90, 255]], np.uint8)
    clear = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(grey[:, ::-1])))
    assert np.array_equal(value_of("image_grey", saved(clear)), grey)
    assert np.array_equal(value_of("image", saved(clear)), np.repeat(grey[..., None], 3, axis=2))
    bilevel = saved(Image.fromarray(grey > 80))
    assert value_of("image_grey", bilevel).tolist() == [[0, 255, 255]]
    assert value_of("image", bilevel)[..., 1].tolist() == [[0, 255, 255]]


def test_grey_of_a_coloured_picture_is_its_brightness():
    brightness = round(0.299 * 200 + 0.587 * 10 + 0.114 * 20)
    assert np.unique(value_of("image_grey", saved(RED))).tolist() == [brightness]


def test_cmyk_jpegs_have_the_colours_that_pillow_shows():
    found = value_of("image", saved(Image.fromarray(RED).convert("CMYK"), "JPEG", quality=95))
    assert found.shape == RED.shape
    assert np.abs(found.astype(int) - RED).max() < 8


def test_16_bits_of_colour_keep_their_high_bytes():
    deep = (np.arange(2 * 3 * 3, dtype=np.uint16) * 3000 + 77).reshape(2, 3, 3)
    assert np.array_equal(value_of("image", deep_png(deep)), deep >> 8)


def deep_png(pixels) -> bytes:
    """RGB of 16 bits a channel, which Pillow reads and does not write."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_transparency_is_dropped_and_the_colour_beneath_stays():
    clear = np.dstack([RED, np.zeros((4, 6), np.uint8)])
    assert np.array_equal(value_of("image", saved(clear)), RED)
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    palette.putpalette([200, 10, 20, 30, 200, 40, 50, 60, 200])
    data = saved(palette, transparency=bytes([10, 128, 30]))  # one for each colour: Pillow alone would warn
    assert value_of("image", data).tolist() == [[[200, 10, 20], [30, 200, 40], [50, 60, 200]]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_high_byte(form):
    deep = (np.arange(0, 65536, 4096, dtype=np.uint16)).reshape(4, 4)
    assert np.array_equal(value_of("image_grey", saved(deep, form)), deep >> 8)
    assert np.array_equal(value_of("image", saved(deep, form))[..., 2], deep >> 8)
    assert np.array_equal(value_of("image_stored", saved(deep, form)), deep)


def test_32_bit_pictures_have_no_scale_and_are_read_as_stored_only():
    depths = np.array([[0.5, 1e6]], np.float32)
    assert "decode: image_stored" in why_not("image", saved(depths, "TIFF"))
    assert np.array_equal(value_of("image_stored", saved(depths, "TIFF")), depths)


def test_masks_keep_the_numbers_of_their_palette():
    mask = Image.fromarray(np.array([[0, 1], [255, 2]], np.uint8))
    mask.putpalette(bytes(range(256)) * 3)
    assert value_of("image_stored", saved(mask)).tolist() == [[0, 1], [255, 2]]


@pytest.mark.parametrize(("form", "turn"), [("JPEG", 6), ("PNG", 6), ("WEBP", 6), ("TIFF", 6), ("JPEG", 3)])
def test_pictures_stand_as_their_exif_says(form, turn):
    lying = np.zeros((16, 32, 3), np.uint8)
    lying[:, :16] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = value_of("image", saved(lying, form, exif=exif))
    white = upright[:12] if turn == 6 else upright[:, 20:]  # turned right: white on top; upside down: on the right
    assert upright.shape == ((32, 16, 3) if turn == 6 else (16, 32, 3))
    assert white.mean() > 240
    assert upright.mean() < 160


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"]
)
@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exif_that_cannot_be_read_turns_nothing(exif, form):
    assert value_of("image", saved(PIXELS, form, exif=exif)).shape == PIXELS.shape


def test_the_first_picture_of_several_is_taken():
    frames = [Image.fromarray(np.full((4, 4), shade, np.uint8)) for shade in (10, 200)]
    for form in ("GIF", "TIFF", "WEBP"):
        data = saved(frames[0], form, save_all=True, append_images=frames[1:])
        assert value_of("image", data).max() < 30, form


def test_a_cut_picture_is_undecodable():
    assert "truncated" in why_not("image", saved(PIXELS.repeat(20, 0), "JPEG")[:-200])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_pixels_than_fit_are_refused_before_they_are_unpacked():
    for side in (10_000, 20_000):
        bomb = saved(Image.new("1", (side, side)))
        assert len(bomb) < 100_000
        assert "pixels" in why_not("image", bomb)


def test_formats_that_start_programs_are_no_pictures():
    assert "UnidentifiedImageError" in why_not("image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


# ---- which decoder ----


@pytest.mark.parametrize(("suffix", "name"), [("jpg", "image"), ("cls", "int"), ("seg.png", "image"), ("txt", "text")])
def test_auto_goes_by_the_last_part_of_the_suffix(suffix, name):
    assert decoder_for("auto", suffix) is DECODERS[name]


def test_every_suffix_has_a_decoder_and_none_is_a_pickle():
    assert set(SUFFIXES.values()) <= set(DECODERS)
    assert not PICKLES & set(SUFFIXES)


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pyd", "pth", "pt", "meta.pkl"])
def test_pickles_are_refused(suffix):
    with pytest.raises(ConfigError, match="are pickles, and reading one runs code that is in the data"):
        decoder_for("auto", suffix)


def test_no_decoder_executes_a_pickle():
    data = pickle.dumps(pytest.fail)
    for name in set(DECODERS) - {"bytes"}:
        why_not(name, data)


@pytest.mark.parametrize(
    ("name", "suffix", "said"),
    [
        ("imgae", "jpg", "there is no decoder 'imgae'; did you mean 'image'?"),
        ("auto", "jpgg", "no decoder is known for 'jpgg' members; did you mean 'jpg'?"),
        ("no.such:function", "jpg", "'no.such:function' cannot be imported: ModuleNotFoundError: No module named 'no'"),
    ],
)
def test_an_unknown_decoder_is_an_error_with_the_key_and_the_nearest_name(name, suffix, said):
    with pytest.raises(ConfigError) as caught:
        decoder_for(name, suffix, "data.fields.x")
    assert str(caught.value).startswith(f"data.fields.x: {said}\n  -> ")


def test_a_function_by_dotted_name_decodes():
    assert decode(decoder_for("json:loads", "xyz"), b"[1]") == [1]
    assert decoder_for("json.loads", "xyz") is json.loads
