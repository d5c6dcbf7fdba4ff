"""A store of this machine: enough of S3 and http. It counts what it is asked, and fails as planned."""

import hashlib
import re
import socket
import struct
import threading
import time
from collections import deque
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.fakes.http_server import FakeServer, QuietHandler

Kind = Literal["LIST", "HEAD", "GET", "INDEX", "PUT", "PART", "BEGIN", "END", "ABORT", "DELETE"]
# A number is answered as that status; reset and cut end the connection before and amid the answer.
Fault = Literal["500", "503", "403", "reset", "cut", "slow", "stall", "wrong"]
BUCKET = "bucket"
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed", 500: "InternalError", 503: "SlowDown"}


class Asked(NamedTuple):
    """One request as it came. `begin` and `end` are of the range, of a GET."""

    kind: Kind
    key: str
    status: int
    begin: int = 0
    end: int = 0


class S3Server(FakeServer):
    """`objects` by key in one bucket. `faults` meet the next requests of a kind, in order; `down` meets all of them."""

    def __init__(self, page_size: int = 1000) -> None:
        super().__init__(_Handler)
        self.page_size = page_size
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}  # parts by number, of uploads that have not ended
        self.asked: list[Asked] = []
        self.faults: deque[tuple[Kind, Fault]] = deque()
        self.down: Fault | None = None
        self.etags = True
        self.lock = threading.Lock()

    @property
    def options(self) -> dict[str, dict[str, object]]:
        """For data.store.options."""
        return {"s3": {"endpoint_url": self.endpoint, "anon": True}}

    def url(self, key: str) -> str:
        return f"s3://{BUCKET}/{key}"

    def plan(self, *faults: Fault, kind: Kind = "GET") -> None:
        self.faults.extend((kind, fault) for fault in faults)

    def count(self, kind: Kind) -> int:
        return sum(one.kind == kind for one in self.asked)

    def fetched(self, key: str) -> list[tuple[int, int]]:
        """The ranges of an object that were given out whole, in the order of their bytes."""
        return sorted((one.begin, one.end) for one in self.asked if one.kind == "GET" and one[1:3] == (key, 206))

    def take_fault(self, kind: Kind) -> Fault | None:
        with self.lock:
            if self.faults and self.faults[0][0] == kind:
                return self.faults.popleft()[1]
            return self.down

    def note(self, asked: Asked) -> None:
        with self.lock:
            self.asked.append(asked)


class _Handler(QuietHandler):
    def serve(self) -> None:
        path, query = self._take_apart()
        if self.command in ("PUT", "POST", "DELETE"):
            self._change(path, query)
        elif "list-type" in query:
            self._list(query)
        elif path.endswith("/"):
            self._show_index(path)
        else:
            self._give("HEAD" if self.command == "HEAD" else "GET", path)

    def _take_apart(self) -> tuple[str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        return unquote(url.path).removeprefix(f"/{BUCKET}/"), parse_qs(url.query, keep_blank_values=True)

    def _change(self, key: str, query: dict[str, list[str]]) -> None:
        """The body is read whole before anything is answered, as a connection that is kept needs it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = _kind_of_change(self.command, query)
        fault = self.fake.take_fault(kind)
        if self._fail(kind, key, fault):
            return
        with self.fake.lock:
            status, answer, headers = self._apply(kind, key, query, body)
        self.fake.note(Asked(kind, key, status, 0, len(body)))
        self._answer(status, answer, {"Content-Type": "application/xml", **headers})

    def _apply(
        self, kind: Kind, key: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        fake, upload = self.fake, query.get("uploadId", [""])[0]
        if kind in ("PART", "END", "ABORT") and upload not in fake.uploads:
            return 404, b"<Error><Code>NoSuchUpload</Code></Error>", {}
        match kind:
            case "PUT":
                fake.objects[key] = body
                return 200, b"", {"ETag": f'"{etag_of(body)}"'}
            case "DELETE":
                fake.objects.pop(key, None)
            case "BEGIN":
                upload = f"upload-{len(fake.asked)}-{len(fake.uploads)}"
                fake.uploads[upload] = {}
                answer = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                return 200, answer.encode(), {}
            case "PART":
                fake.uploads[upload][int(query["partNumber"][0])] = body
                return 200, b"", {"ETag": f'"{etag_of(body)}"'}
            case "END":
                named = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
                fake.objects[key] = b"".join(fake.uploads[upload][number] for number in named)
                del fake.uploads[upload]
                answer = f"<CompleteMultipartUploadResult><Key>{escape(key)}</Key></CompleteMultipartUploadResult>"
                return 200, answer.encode(), {}
            case "ABORT":
                del fake.uploads[upload]
        return 204, b"", {}

    def _list(self, query: dict[str, list[str]]) -> None:
        fake = self.fake
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        if self._fails("LIST", prefix):
            return
        keys = [key for key in sorted(fake.objects) if key.startswith(prefix) and key > after]
        page = keys[: fake.page_size]
        shown = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(fake.objects[key])}</Size>"
            f"<ETag>&quot;{etag_of(fake.objects[key])}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in page
        )
        more = len(keys) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        body = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{shown}</ListBucketResult>"
        fake.note(Asked("LIST", prefix, 200))
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _show_index(self, path: str) -> None:
        if self._fails("INDEX", path):
            return
        names = [key.removeprefix(path) for key in self.fake.objects if key.startswith(path)]
        body = "".join(f'<a href="{name}">{name}</a>\n' for name in names).encode()
        self.fake.note(Asked("INDEX", path, 200))
        self._answer(200, body, {"Content-Type": "text/html"})

    def _give(self, kind: Kind, key: str) -> None:
        fake = self.fake
        fault = fake.take_fault(kind)
        if self._fail(kind, key, fault):
            return
        data = fake.objects.get(key)
        if data is None:
            self._refuse(kind, key, 404)
            return
        headers = {"Accept-Ranges": "bytes"}
        if fake.etags:
            headers["ETag"] = f'"{etag_of(data)}"'
            if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
                self._refuse(kind, key, 412)
                return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        begin, end = (int(found[1]), min(int(found[2]) + 1, len(data))) if found else (0, len(data))
        if found:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        body = data[begin:end]
        if fault == "wrong":
            body = bytes([body[0] ^ 1]) + body[1:]
        status = 206 if found else 200
        whole = fault not in ("cut", "wrong")
        fake.note(Asked(kind, key, status if whole else 0, begin, end))
        self._answer(status, body, headers, fault)

    def _fails(self, kind: Kind, key: str) -> bool:
        return self._fail(kind, key, self.fake.take_fault(kind))

    def _fail(self, kind: Kind, key: str, fault: Fault | None) -> bool:
        """Whether a fault has taken the answer's place."""
        if fault is None or fault in ("cut", "slow", "wrong"):
            return False
        if fault.isdigit():
            self._refuse(kind, key, int(fault))
            return True
        self.fake.note(Asked(kind, key, 0))
        if fault == "stall":
            self.fake.closing.wait(30)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
        self.close_connection = True
        return True

    def _refuse(self, kind: Kind, key: str, status: int) -> None:
        self.fake.note(Asked(kind, key, status))
        code = _CODES[status]
        body = f"<Error><Code>{code}</Code><Message>planned {code}</Message></Error>".encode()
        self._answer(status, body, {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        self.send_head(status, len(body), headers)
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "slow":
            for at in range(0, len(body), -(-len(body) // 10)):
                self.wfile.write(body[at : at + -(-len(body) // 10)])
                time.sleep(0.01)
        else:
            self.wfile.write(body)


def _kind_of_change(command: str, query: dict[str, list[str]]) -> Kind:
    if command == "PUT":
        return "PART" if "partNumber" in query else "PUT"
    if command == "DELETE":
        return "ABORT" if "uploadId" in query else "DELETE"
    return "BEGIN" if "uploads" in query else "END"


@lru_cache(64)
def etag_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
