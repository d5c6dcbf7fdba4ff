"""A gallery of broken shards: each is refused, or its samples are marked, with one exact message."""

import gzip
import io
import tarfile

import pytest

from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import index_shard
from orchestrator.data.shards.tarscan import LARGEST_EXTENSION
from tests.fakes.shards import LOCAL, write_tar

COPY = "copy the shard again from where it came from, or pack it again"
PLAIN = "pack it as a plain .tar; longhaul import unpacks compressed ones"
JOINED = "pack it again as one tar; of tars joined end to end most readers see the first only"
MEMBERS = "pack it again with plain members"
KEYS = "pack the shard again, each key once and members sorted by name"


def header(name, size=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def body(data):
    return data.ljust(-(-len(data) // 512) * 512, b"\0")


def record(key, value):
    text = b" " + key + b"=" + value + b"\n"
    length = next(n for n in range(len(text), len(text) + 9) if n == len(str(n)) + len(text))
    return str(length).encode() + text


def pax(records, kind=tarfile.XHDTYPE):
    return header("pax", len(records), kind) + body(records)


def change(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def sign(block):
    """The header with the checksum that belongs to it."""
    blank = change(block, 148, b" " * 8)
    return change(blank, 148, b"%06o\0 " % sum(blank))


A = header("a.txt", 700) + body(b"a" * 700)  # 1536 bytes
B = header("b.txt", 1) + body(b"b")  # 1024 bytes
END = bytes(1024)
SHARDS = {
    "an empty file": (b"", "NotATar: is no tar: it has 0 bytes", PLAIN),
    "a short file": (b"hello", "NotATar: is no tar: it has 5 bytes", PLAIN),
    "garbage": (b"garbage " * 200, "NotATar: is no tar: its first block is no header", PLAIN),
    "gzip": (gzip.compress(A + B + END, mtime=0), "NotATar: is no tar: it looks like gzip", PLAIN),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(900), "NotATar: is no tar: it looks like zstd", PLAIN),
    "cut in a member": (A[:1000], "Truncated: member at byte 0 needs 1536 bytes, the file has 1000", COPY),
    "cut in padding": ((A + B)[:2500], "Truncated: member at byte 1536 needs 2560 bytes, the file has 2500", COPY),
    "cut in a header": ((A + B)[:1700], "Truncated: ends inside the header at byte 1536", COPY),
    "cut between members": (A, "NoEndMark: has no end mark at byte 1536; it may have been cut", COPY),
    "no end mark": (A + B, "NoEndMark: has no end mark at byte 2560; it may have been cut", COPY),
    "half an end mark": (
        A + B + END[:512],
        "NoEndMark: has no whole end mark at byte 2560; it may have been cut",
        COPY,
    ),
    "cut in a long name": (
        header("././@LongLink", 700, tarfile.GNUTYPE_LONGNAME) + b"n" * 512,
        "Truncated: member at byte 0 needs 1536 bytes, the file has 1024",
        COPY,
    ),
    "tars joined": (A + END + B + END, "DataAfterEnd: has data at byte 2560, after the end mark at byte 1536", JOINED),
    "a late byte": (
        A + END + bytes(9000) + b"x",
        "DataAfterEnd: has data at byte 11560, after the end mark at byte 1536",
        JOINED,
    ),
    "one zero block": (
        A + END[:512] + B + END,
        "DataAfterEnd: has data at byte 2048, after the end mark at byte 1536",
        JOINED,
    ),
    "a wrong checksum": (
        A + change(B, 0, b"c") + END,
        "HeaderDamaged: header at byte 1536 has a wrong checksum",
        COPY,
    ),
    "garbage inside": (A + b"?" * 512 + B + END, "HeaderDamaged: header at byte 1536 has a wrong checksum", COPY),
    "a size that is none": (
        A + sign(change(B[:512], 124, b"12x4")) + B[512:] + END,
        "HeaderDamaged: header at byte 1536 states no possible size",
        COPY,
    ),
    "a size that only int() reads": (
        A + sign(change(B[:512], 124, b"0000000_001")) + B[512:] + END,
        "HeaderDamaged: header at byte 1536 states no possible size",
        COPY,
    ),
    "a negative size": (
        A + sign(change(B[:512], 124, b"\xff" * 12)) + B[512:] + END,
        "HeaderDamaged: header at byte 1536 states no possible size",
        COPY,
    ),
    "a huge size": (
        A + sign(change(B[:512], 124, b"\x80" + (2**60).to_bytes(11, "big"))) + B[512:] + END,
        f"Truncated: member at byte 1536 needs {2048 + 2**60} bytes, the file has 3584",
        COPY,
    ),
    "a prefix without ustar": (
        sign(change(change(A[:512], 345, b"folder"), 257, bytes(8))) + A[512:] + END,
        "HeaderDamaged: header at byte 0 has a name prefix but is not ustar",
        COPY,
    ),
    "an oversized PAX header": (
        A + pax(record(b"comment", b"x" * LARGEST_EXTENSION)) + B + END,
        "Unsupported: long name or PAX header at byte 1536 has 1048593 bytes, at most 1048576 are read",
        MEMBERS,
    ),
    "a PAX record of no length": (
        A + pax(b"999 path=x\n") + B + END,
        "HeaderDamaged: PAX record at byte 2048 is malformed",
        COPY,
    ),
    "a PAX record of 5000 digits": (
        pax(b"9" * 5000 + b" path=x\n") + B + END,
        "HeaderDamaged: PAX record at byte 512 is malformed",
        COPY,
    ),
    "a PAX size of 5000 digits": (
        pax(record(b"size", b"9" * 5000)) + B + END,
        f"HeaderDamaged: PAX size {b'9' * 40!r} of the member at byte 0 is no size",
        COPY,
    ),
    "a PAX header of nothing": (
        A + pax(record(b"path", b"x.txt")) + END,
        "HeaderDamaged: a long-name or PAX header before byte 2560 belongs to no member",
        COPY,
    ),
    "two names": (
        pax(record(b"path", b"x.txt")) + pax(record(b"path", b"y.txt")) + B + END,
        "HeaderDamaged: header at byte 1024 contradicts the one before it",
        COPY,
    ),
    "a long name that goes on": (
        A + header("././@LongLink", 3, tarfile.GNUTYPE_LONGNAME) + body(b"x.txt") + B + END,
        "HeaderDamaged: long name or PAX header at byte 1536 goes on after its end",
        COPY,
    ),
    "a long name with a second one inside": (
        A + header("././@LongLink", 12, tarfile.GNUTYPE_LONGNAME) + body(b"x.txt\0y.txt\0") + B + END,
        "HeaderDamaged: long name or PAX header at byte 1536 goes on after its end",
        COPY,
    ),
    "a global size": (
        pax(record(b"size", b"7"), tarfile.XGLTYPE) + B + END,
        "Unsupported: a global PAX header gives the member at byte 1024 another size",
        MEMBERS,
    ),
    "a sparse member": (
        A + header("b.txt", 1, tarfile.GNUTYPE_SPARSE) + body(b"b") + END,
        "Unsupported: member at byte 1536 is stored sparsely",
        MEMBERS,
    ),
    "a sparse PAX member": (
        pax(record(b"GNU.sparse.major", b"1")) + B + END,
        "Unsupported: member at byte 0 is stored sparsely",
        MEMBERS,
    ),
}
SAMPLES = {
    "a key's members scattered": (
        ["a.txt", "b.txt", "a.json"],
        "2 bad samples: a: scattered key: its members lie in 2 places of the shard; "
        "a: scattered key: its members lie in 2 places of the shard",
    ),
    "a key repeated": (
        ["a.txt", "b.txt", "a.txt"],
        "2 bad samples: a: repeated key: 2 samples of the shard have it; "
        "a: repeated key: 2 samples of the shard have it",
    ),
    "a suffix repeated": (["a.txt", "a.TXT", "b.txt"], "1 bad samples: a: repeated suffix: two members .txt"),
    "a name that is no UTF-8": (["a\udce9.txt", "b.txt"], "1 bad samples: a\\xe9: name is not UTF-8"),
}


def ref(path):
    return ShardRef(ordinal=0, source=0, name=f"s/{path.name}", url=str(path), size_bytes=path.stat().st_size)


@pytest.mark.parametrize("fault", SHARDS)
def test_a_broken_shard_is_refused_with_place_fault_and_remedy(tmp_path, fault):
    data, message, remedy = SHARDS[fault]
    path = tmp_path / "t.tar"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        index_shard(ref(path), tmp_path / "work", "fail", LOCAL)
    wanted = f"{remedy}, or set data.on_bad=skip to leave this shard out"
    assert str(caught.value) == f"s/t.tar ({path}): {message}\n  -> {wanted}"
    skipped = index_shard(ref(path), tmp_path / "work", "skip", LOCAL)
    assert (skipped.problem, len(skipped)) == (message, 0)


@pytest.mark.parametrize("fault", SAMPLES)
def test_broken_samples_are_refused_with_key_fault_and_remedy(tmp_path, fault):
    names, message = SAMPLES[fault]
    path = write_tar(tmp_path / "t.tar", [(name, b"1") for name in names])
    with pytest.raises(DataError) as caught:
        index_shard(ref(path), tmp_path / "work", "fail", LOCAL)
    wanted = f"{KEYS}, or set data.on_bad=skip to leave out what is broken"
    assert str(caught.value) == f"s/t.tar ({path}): {message}\n  -> {wanted}"


def test_what_looks_odd_and_is_legal_is_read(tmp_path):
    """The gallery's building blocks are sound: without the fault every one of them is one sample."""
    long = header("././@LongLink", 200, tarfile.GNUTYPE_LONGNAME) + body(b"n" * 190 + b".txt" + bytes(6))
    link = header("././@LongLink", 200, tarfile.GNUTYPE_LONGLINK) + body(b"t" * 200)
    sound = {
        "base 256": sign(change(B[:512], 124, b"\x80" + (1).to_bytes(11, "big"))) + B[512:],
        "global": pax(record(b"comment", b"c") + record(b"size", b"1"), tarfile.XGLTYPE) + B,
        "PAX": pax(record(b"path", b"p/q.txt") + record(b"size", b"1")) + header("short", 0) + body(b"b"),
        "long name": long + B,
        "long link": link + long + header("l", 0, tarfile.SYMTYPE) + B,
        "signed sum": signed(change(B[:512], 265, "ü".encode())) + B[512:],
        "times of GNU tar": sign(change(change(B[:512], 257, b"ustar  \0"), 345, b"14123412341\0")) + B[512:],
        "zero bytes": header("b.txt"),
        "a folder of the first tars": sign(change(header("d.e/", 0, tarfile.AREGTYPE), 124, b"00000000777\0")) + B,
        "a slash after the name": pax(record(b"path", b"b.txt/")) + B,
        "a folder": header("d/", 0, tarfile.DIRTYPE) + B,
    }
    for number, (what, data) in enumerate(sound.items()):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data + END)
        index = index_shard(ref(path), tmp_path / "work", "fail", LOCAL)
        expected = {"PAX": "p/q", "long name": "n" * 190}.get(what, "b")
        assert index.keys() == [expected], what
        ((piece,),) = index.members()
        assert (data + END)[piece.offset : piece.offset + piece.size] == (b"" if what == "zero bytes" else b"b"), what


def test_an_extent_begins_before_all_headers_of_its_member(tmp_path):
    path = tmp_path / "t.tar"
    comment = pax(record(b"comment", b"c"), tarfile.XGLTYPE)
    path.write_bytes(comment + pax(record(b"path", b"x.txt")) + comment + B + END)
    index = index_shard(ref(path), tmp_path / "work", "fail", LOCAL)
    assert (index.keys(), index.table["offset"].to_pylist()) == (["x"], [len(comment)])


def signed(block):
    """The header as old tars signed it, bytes above 127 taken as negative."""
    blank = change(block, 148, b" " * 8)
    return change(blank, 148, b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in blank))


def test_an_empty_shard_has_no_samples(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w"):
        pass
    path.write_bytes(out.getvalue())
    index = index_shard(ref(path), tmp_path / "work", "fail", LOCAL)
    assert (index.keys(), index.members(), index.problem) == ([], [], "")


def test_a_key_may_stand_in_two_shards(tmp_path):
    for name in ("1.tar", "2.tar"):
        path = write_tar(tmp_path / name, [("a.txt", b"1")])
        assert index_shard(ref(path), tmp_path / "work", "fail", LOCAL).keys() == ["a"]
