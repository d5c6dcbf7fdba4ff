import gzip
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.shards.tarscan import (
    BadShard,
    DataAfterEnd,
    HeaderDamaged,
    NoEndMark,
    NotATar,
    Truncated,
    Unsupported,
    scan_tar,
)

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
part = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\0"), min_size=1, max_size=12)
names = st.lists(part, min_size=1, max_size=25).map("/".join).filter(lambda name: name.strip("./"))


def pack(members, tar_format=tarfile.USTAR_FORMAT, kinds=None):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for i, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.type = kinds[i] if kinds else tarfile.REGTYPE
            info.size = len(data) if info.isreg() else 0
            info.linkname = "elsewhere" if info.islnk() or info.issym() else ""
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()


def as_tarfile_sees(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]


def as_we_see(data):
    return [(member.name, member.offset, member.size) for member in scan_tar(data, "test.tar")]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=6),
    st.sampled_from(["gnu", "pax"]),
    st.data(),
)
def test_members_are_those_that_tarfile_finds(members, tar_format, choices):
    kinds = [choices.draw(st.sampled_from([tarfile.REGTYPE] * 4 + [tarfile.DIRTYPE, tarfile.SYMTYPE])) for _ in members]
    data = pack(members, FORMATS[tar_format], kinds)
    assert as_we_see(data) == as_tarfile_sees(data)


@pytest.mark.parametrize("tar_format", FORMATS)
def test_long_names_are_whole(tar_format):
    name = "/".join(["folder-" + "x" * 20] * 5) + "/file.txt"
    data = pack([(name, b"1"), ("short.txt", b"22")], FORMATS[tar_format])
    assert [member.name for member in scan_tar(data, "t")] == [name, "short.txt"]


def test_extent_begins_at_the_extended_header():
    data = pack([("a.txt", b"1"), ("n" * 150 + ".txt", b"2"), ("c.txt", b"3")], tarfile.PAX_FORMAT)
    members = list(scan_tar(data, "t"))
    assert [member.begin for member in members[1:]] == [member.end for member in members[:-1]]
    assert members[1].offset - members[1].begin > 512


def test_base_256_sizes_are_read():
    data = bytearray(pack([("a.txt", b"hello")]))
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert as_we_see(bytes(data)) == [("a.txt", 512, 5)]


def test_pax_size_overrides_the_header():
    record = b"10 size=5\n"
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    member = tarfile.TarInfo("a.txt")
    data = info.tobuf() + record.ljust(512, b"\0") + member.tobuf() + b"hello".ljust(512, b"\0") + bytes(1024)
    assert as_we_see(data) == as_tarfile_sees(data) == [("a.txt", 1536, 5)]


def test_names_that_are_no_utf8_survive():
    data = pack([("a\udce9.txt", b"1")])
    assert [member.name for member in scan_tar(data, "t")] == ["a\udce9.txt"]


def test_tar_without_members_is_whole():
    assert as_we_see(bytes(10240)) == []


GOOD = pack([("a.txt", b"x" * 700), ("b.txt", b"y")])
END = 512 + 1024 + 512 + 512
PAX = pack([("n" * 150, b"z")], tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", NotATar, "0 bytes"),
        (b"hello", NotATar, "5 bytes"),
        (b"hello " * 1000, NotATar, "no header"),
        (gzip.compress(GOOD) + bytes(512), NotATar, "gzip"),
        (GOOD[:1000], Truncated, "needs 1536 bytes, the file has 1000"),
        (GOOD[:1700], Truncated, "header at byte 1536"),
        (GOOD[:END], NoEndMark, f"byte {END}"),
        (GOOD[: END + 512], NoEndMark, f"byte {END}"),
        (GOOD + GOOD, DataAfterEnd, f"byte {len(GOOD)}"),
        (GOOD[: END + 512] + GOOD, DataAfterEnd, f"byte {END + 512}"),
        (GOOD[:1540] + b"?" + GOOD[1541:], HeaderDamaged, "byte 1536 has a wrong checksum"),
        (PAX[:1024] + bytes(2048), HeaderDamaged, "belongs to no member"),
        (PAX[:512] + b"999 path=x\n" + PAX[523:], HeaderDamaged, "PAX record at byte 512"),
    ],
)
def test_broken_tar_names_kind_shard_and_byte(data, error, says):
    with pytest.raises(error, match=says) as caught:
        list(scan_tar(data, "bad.tar"))
    assert "bad.tar" in str(caught.value)
    assert type(caught.value) is error


def test_sparse_members_are_refused():
    info = tarfile.TarInfo("a.bin")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(Unsupported, match="sparse"):
        list(scan_tar(info.tobuf() + bytes(1024), "t"))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_changed_byte_is_found_or_lies_in_a_payload(at, change):
    data = bytearray(GOOD)
    data[at] ^= change
    in_payload = 512 <= at < 1536 or 2048 <= at < 2560
    try:
        assert as_we_see(bytes(data)) == as_we_see(GOOD)
        # tar's checksum field may be spelt in several ways; everything else must be noticed
        assert in_payload or 148 <= at < 156 or 1536 + 148 <= at < 1536 + 156
    except BadShard:
        assert not in_payload


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_cut_tar_is_never_taken_for_whole(at):
    if at >= END + 1024:
        return  # only padding is lost
    with pytest.raises(BadShard):
        list(scan_tar(GOOD[:at], "t"))
