"""Checkpoints in an object store: a Shelf (shelf.py) below one URL. storage/objects.py speaks to the store."""

from orchestrator.checkpoint import layout
from orchestrator.storage.objects import Objects, Piece
from orchestrator.storage.stores import StoreSettings, open_stores


class RemoteShelf:
    """Nothing is connected before the first request."""

    def __init__(self, url: str, settings: StoreSettings) -> None:
        self.url, self._settings = url.rstrip("/"), settings

    def address(self, name: str) -> str:
        return f"{self.url}/{name}"

    def where(self, name: str, file: str = "") -> str:
        return f"{self.url}/{name}/{file}".rstrip("/")

    def list(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for path, size_bytes in self._objects.sizes().items():
            name, _, file = path.partition("/")
            if layout.parse_name(name) and file:
                found.setdefault(name, {})[file] = size_bytes
        return found

    def read(self, name: str, file: str) -> bytes:
        return self._objects.read(f"{name}/{file}")

    def open(self, name: str, file: str) -> "RemoteFile":
        size_bytes = self._objects.size(f"{name}/{file}")
        if size_bytes is None:
            raise FileNotFoundError(2, "is missing", self.where(name, file))
        return RemoteFile(self._objects, f"{name}/{file}", size_bytes)

    def write(self, name: str, file: str, size_bytes: int, piece: Piece) -> None:
        self._objects.put_large(f"{name}/{file}", size_bytes, piece)

    def publish(self, name: str, file: str, data: bytes) -> None:
        self._objects.put(f"{name}/{file}", data)

    def settle(self, name: str) -> None:
        """A store shows at once what has been put into it, and keeps it."""

    def remove(self, name: str) -> None:
        paths = list(self._objects.sizes(name))
        self._objects.remove([path for path in paths if path == f"{name}/{layout.COMMIT}"])
        self._objects.remove([path for path in paths if path != f"{name}/{layout.COMMIT}"])

    @property
    def _objects(self) -> Objects:
        return open_stores(self._settings).objects(self.url)


class RemoteFile:
    """A StoredFile."""

    def __init__(self, objects: Objects, path: str, size_bytes: int) -> None:
        self._objects, self._path, self.size_bytes = objects, path, size_bytes

    def read_into(self, into: memoryview, begin: int) -> None:
        into[:] = self._objects.read(self._path, begin, begin + len(into))

    def close(self) -> None:
        """Connections are shared."""
