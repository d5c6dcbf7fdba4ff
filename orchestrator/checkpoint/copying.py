"""Copies a checkpoint to another shelf: every byte is checked on its way, and once more where it has come to lie."""

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.found import open_checked, read_outline, verify_on
from orchestrator.checkpoint.layout import RankRecord
from orchestrator.checkpoint.shelf import Address, Shelf
from orchestrator.core.errors import BadInput, NotVerified


def copy_checkpoint(source: Shelf, name: str, target: Shelf) -> Address:
    """Raises CheckpointDamaged when it is not sound. What there is of an earlier copy that was cut off is replaced."""
    if layout.COMMIT in target.list().get(name, ()):
        raise BadInput("there is this checkpoint already", where=target.where(name))
    _, records = read_outline(source, name)
    for record in records:
        _copy_file(source, name, record, target)
    for file in (*(layout.record_name(rank) for rank in range(len(records))), layout.MANIFEST):
        target.publish(name, file, source.read(name, file))
    target.settle(name)
    target.publish(name, layout.COMMIT, source.read(name, layout.COMMIT))
    if problems := verify_on(target, name):
        target.remove(name)
        raise NotVerified("\n".join(problems), where=target.where(name), remedy="it was removed again: copy once more")
    return target.address(name)


def _copy_file(source: Shelf, name: str, record: RankRecord, target: Shelf) -> None:
    file = open_checked(source, name, record)

    def piece(begin: int, end: int) -> memoryview:
        data = memoryview(bytearray(end - begin))
        file.read_into(data, begin)
        return data

    try:
        target.write(name, record.file, record.size_bytes, piece)
    finally:
        file.close()
