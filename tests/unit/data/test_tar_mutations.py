"""Headers with random bytes changed: a typed error, or exactly the rows that tarfile finds."""

import io
import random
import tarfile

import pytest

from orchestrator.core.words import ShardRef
from orchestrator.data.shards.index import index_shard
from orchestrator.data.shards.tarscan import BadShard, scan_tar
from tests.fakes.shards import LOCAL
from tests.fakes.tar_reader import Found, read_with_tarfile, sign_header


def pack_all_kinds(tar_format, seed):
    """A tar of every kind of header that `tar_format` has, sizes from nothing to several blocks."""
    draw = random.Random(seed)
    out = io.BytesIO()
    shared = {"comment": "shared"} if tar_format == tarfile.PAX_FORMAT else None
    with tarfile.open(fileobj=out, mode="w", format=tar_format, pax_headers=shared) as tar:
        for i in range(8):
            folder = "folder" * draw.choice([0, 1, 20]) + "/" + "f" * 80 if i % 3 == 0 else "d.e"
            info = tarfile.TarInfo(f"{folder}/{i // 2}.{draw.choice(['txt', 'Json', 'seg.png'])}{i}")
            info.size = draw.choice([0, 1, 511, 512, 513, 1500])
            info.mtime = i + 0.5 if tar_format == tarfile.PAX_FORMAT else i
            tar.addfile(info, io.BytesIO(draw.randbytes(info.size)))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * (150 if tar_format != tarfile.USTAR_FORMAT else 50)
        tar.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    data = out.getvalue()
    at = read_with_tarfile(data)[-1].offset - 512
    size = int(data[at + 124 : at + 135], 8)
    based = data[at : at + 124] + b"\x80" + size.to_bytes(11, "big") + data[at + 136 : at + 512]
    return data[:at] + sign_header(based) + data[at + 512 :]


ORIGINALS = [
    pack_all_kinds(tar_format, seed)
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    for seed in range(2)
]


def find_headers(data):
    """Where every header stands and what follows names and PAX headers, by magic."""
    return [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]


def mutate(data, draw):
    """One to three bytes of headers changed; half of the time the header is signed again, so that more goes through."""
    changed = bytearray(data)
    headers = find_headers(data)
    resign = draw.random() < 0.5
    for _ in range(draw.randint(1, 3)):
        at = draw.choice(headers)
        if resign and draw.random() < 0.3:
            place = draw.choice([156, *range(124, 136)])  # what decides most
            changed[at + place] = draw.choice(b"01234567xgLKSXV\0 \x80\xff")
        else:
            within = 1024 if chr(data[at + 156]) in "xgLK" else 512  # with the block of its body
            changed[at + draw.randrange(within)] = draw.randrange(256)
        if resign:
            changed[at : at + 512] = sign_header(bytes(changed[at : at + 512]))
    return bytes(changed)


def scan(data):
    return [Found(*member[:4]) for member in scan_tar(data, "t")]


def check_mutations(count, seed):
    draw = random.Random(seed)
    same = refused = 0
    for number in range(count):
        data = mutate(draw.choice(ORIGINALS), draw)
        try:
            ours = scan(data)
        except BadShard:
            refused += 1
            continue
        assert ours == read_with_tarfile(data), f"mutation {number} of seed {seed}"
        same += 1
    assert same > count / 10
    assert refused > count / 10


def test_changed_headers_give_an_error_or_the_rows_of_tarfile():
    check_mutations(600, seed=1)


@pytest.mark.cluster
def test_ten_thousand_changed_headers_give_an_error_or_the_rows_of_tarfile():
    check_mutations(10_000, seed=2)


@pytest.mark.parametrize("original", range(len(ORIGINALS)))
def test_tarfile_confirms_every_extent(tmp_path, original):
    """Each sample's extent, cut out and closed, is a tar of its members with their bytes."""
    data = ORIGINALS[original]
    assert scan(data) == read_with_tarfile(data)
    path = tmp_path / "t.tar"
    path.write_bytes(data)
    shard = ShardRef(ordinal=0, source=0, name="t", url=str(path), size_bytes=len(data))
    index = index_shard(shard, tmp_path / "work", "fail", LOCAL)
    whole = read_with_tarfile(data)
    columns = (index.table["offset"].to_pylist(), index.table["size"].to_pylist())
    confirmed = 0
    for key, pieces, offset, size in zip(index.keys(), index.members(), *columns, strict=True):
        alone = data[offset : offset + size] + bytes(1024)
        found = read_with_tarfile(alone)
        assert [one.name.lower() for one in found] == [f"{key}.{piece.suffix}".lower() for piece in pieces]
        for one, piece in zip(found, pieces, strict=True):
            assert (one.offset + offset, one.size) == (piece.offset, piece.size)
            confirmed += 1
    assert confirmed == len(whole) == 8
