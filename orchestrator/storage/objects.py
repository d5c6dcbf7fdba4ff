"""Objects below one URL of a store, written as well as read. Beside remote.py, which reads what others have put there.

An object appears whole or not at all, whoever dies while it is written."""

import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fsspec.asyn import sync

from orchestrator.core.errors import DataError
from orchestrator.storage.remote import RemoteStore
from orchestrator.storage.retry import describe

T = TypeVar("T")
Piece = Callable[[int, int], bytes | memoryview]  # the bytes of an object from one on, up to another
log = logging.getLogger(__name__)
PART_BYTES = 16 * 2**20  # of an upload, and what is sent again when a request fails
MOST_PARTS = 10_000  # of one object, in S3
REQUESTS = 8  # at once


class Objects:
    """`url` is the front of all their URLs, without a slash at its end."""

    def __init__(self, store: RemoteStore, url: str) -> None:
        self.url, self._store = url, store

    def sizes(self, below: str = "") -> dict[str, int]:
        """By path, of all below a path, by one request for each thousand or so."""
        base, folder = self._path(""), self._path(below)
        try:
            found = self._call(below, lambda: self._store.find_all(folder))
        except _Missing:
            return {}
        return {path.removeprefix(base).lstrip("/"): int(info["size"]) for path, info in found.items()}

    def size(self, path: str) -> int | None:
        """None where there is none."""
        try:
            return int(self._call(path, lambda: self._store.ask("_info", "info", self._path(path)))["size"])
        except _Missing:
            return None

    def read(self, path: str, begin: int | None = None, end: int | None = None) -> bytes:
        """A range, or all of it. Raises FileNotFoundError."""
        try:
            return self._call(path, lambda: self._read(path, begin, end))
        except _Missing:
            raise FileNotFoundError(2, "is missing", self._url(path)) from None

    def put(self, path: str, data: bytes) -> None:
        """It is there, and stays, when this returns."""
        self._call(path, lambda: self._store.ask("_pipe_file", "pipe_file", self._path(path), data))

    def put_large(self, path: str, size_bytes: int, piece: Piece) -> None:
        """The same, in parts where it is larger than one."""
        if size_bytes <= PART_BYTES:
            self.put(path, bytes(piece(0, size_bytes)))
        elif self._store.protocol == "s3":
            self._put_in_parts(path, size_bytes, piece)
        else:
            self._call(path, lambda: self._stream(path, size_bytes, piece))

    def remove(self, paths: Iterable[str]) -> None:
        with ThreadPoolExecutor(REQUESTS) as threads:
            list(threads.map(self._remove, paths))

    # ---- inside ----

    def _read(self, path: str, begin: int | None, end: int | None) -> bytes:
        if begin is None or end is None:
            return bytes(self._store.ask("_cat_file", "cat_file", self._path(path)))
        return self._store.read_once(self._url(path), "", begin, end)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(_Missing):  # an earlier try has removed it
            self._call(path, lambda: self._store.ask("_rm_file", "rm_file", self._path(path)))

    def _stream(self, path: str, size_bytes: int, piece: Piece) -> None:
        """What its package does with large files; a failure begins it anew."""
        with self._store.files.open(self._path(path), "wb", block_size=PART_BYTES) as file:
            for begin in range(0, size_bytes, PART_BYTES):
                file.write(bytes(piece(begin, min(begin + PART_BYTES, size_bytes))))

    def _put_in_parts(self, path: str, size_bytes: int, piece: Piece) -> None:
        upload = self._call_s3("create_multipart_upload", path)["UploadId"]
        part = PART_BYTES * -(-size_bytes // (PART_BYTES * MOST_PARTS))

        def send(number: int) -> dict[str, Any]:
            body = bytes(piece((number - 1) * part, min(number * part, size_bytes)))
            sent = self._call_s3("upload_part", path, UploadId=upload, PartNumber=number, Body=body)
            return {"PartNumber": number, "ETag": sent["ETag"]}

        try:
            with ThreadPoolExecutor(REQUESTS) as threads:
                parts = list(threads.map(send, range(1, -(-size_bytes // part) + 1)))
            self._complete(path, upload, parts, size_bytes)
        except BaseException:
            self._give_up(path, upload)
            raise

    def _give_up(self, path: str, upload: str) -> None:
        """Parts that were sent cost money until their upload is ended."""
        try:
            self._ask_s3("abort_multipart_upload", path, UploadId=upload)
        except Exception as error:  # noqa: BLE001 (the failure that led here is the one to tell)
            log.warning("an unfinished upload of %s stays: %s", self._url(path), describe(error))

    def _complete(self, path: str, upload: str, parts: list[dict[str, Any]], size_bytes: int) -> None:
        try:
            self._call_s3("complete_multipart_upload", path, UploadId=upload, MultipartUpload={"Parts": parts})
        except DataError:
            if self.size(path) != size_bytes:  # else an earlier try was answered too late
                raise

    def _call_s3(self, method: str, path: str, **arguments: Any) -> Any:
        return self._call(path, lambda: self._ask_s3(method, path, **arguments))

    def _ask_s3(self, method: str, path: str, **arguments: Any) -> Any:
        files = self._store.files
        bucket, key, _ = files.split_path(self._path(path))
        timeout = self._store.timeout_s
        return sync(files.loop, files._call_s3, method, Bucket=bucket, Key=key, timeout=timeout, **arguments)

    def _call(self, path: str, attempt: Callable[[], T]) -> T:
        """Tried until the store answers; that it has no such object is an answer."""

        def answer() -> T:
            try:
                return attempt()
            except FileNotFoundError as error:
                raise _Missing(str(error)) from error

        return self._store.retry.call(self._url(path), answer)

    def _url(self, path: str) -> str:
        return f"{self.url}/{path}"

    def _path(self, path: str) -> str:
        return str(self._store.files._strip_protocol(self._url(path))).rstrip("/")


class _Missing(DataError):
    """Passes through retry.py untouched."""
