"""One object store: lists its shards by one listing, and reads ranges of them that are surely of the listed version.

Beside local.py. fsspec's packages speak to the store; a request has a time limit, and retry.py says what comes next."""

import importlib.util
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

from orchestrator.core.errors import DataError
from orchestrator.storage.local import Listed, is_shard, sort_listed
from orchestrator.storage.retry import Retry, describe, has_changed

# By protocol: the module that fsspec needs, and what pip calls it.
PACKAGES = {
    "s3": ("s3fs", "s3fs"),
    "gs": ("gcsfs", "gcsfs"),
    "gcs": ("gcsfs", "gcsfs"),
    "az": ("adlfs", "adlfs"),
    "abfs": ("adlfs", "adlfs"),
    "abfss": ("adlfs", "adlfs"),
    "http": ("aiohttp", "aiohttp"),
    "https": ("aiohttp", "aiohttp"),
    "hf": ("huggingface_hub", "huggingface_hub"),
}
# What a listing may say about an object's version, the surest first.
_VERSION_KEYS = ("generation", "ETag", "etag", "blob_id", "Last-Modified", "last_modified", "LastModified", "mtime")
_HTTP = ("http", "https")
_WEAK = "W/"  # an etag that may not be sent as If-Match
_PROTOCOL = re.compile(r"^([a-z0-9+.:-]+)://", re.IGNORECASE)
_MAGIC = re.compile(r"[*?\[]")
_HEADS_AT_ONCE = 16  # requests, where a listing shows no sizes


class Place(NamedTuple):
    """A path of data.train taken apart: below `root` what matches `pattern`, or everything, or the one shard `name`."""

    root: str
    pattern: re.Pattern[str] | None = None
    name: str = ""


def find_protocol(path: str, where: str) -> str | None:
    """The protocol of a store's URL, None for files; what is not read is refused with the list of what is."""
    if path.startswith("pipe:"):
        raise DataError(
            "pipe: runs commands and has no byte positions",
            where=where,
            remedy=f"copy the shards to a folder, or name their store by {_readable()}",
        )
    found = _PROTOCOL.match(path)
    protocol = found.group(1).lower() if found else "file"
    if protocol == "file":
        return None
    if protocol not in PACKAGES:
        raise DataError(f"{protocol}:// is not read", where=where, remedy=f"use {_readable()}, or a path of files")
    return protocol


def _readable() -> str:
    return ", ".join(f"{protocol}://" for protocol in PACKAGES)


class RemoteStore:
    """A bucket or server, by the front of its URLs. Nothing is connected before the first request."""

    def __init__(self, root: str, options: Mapping[str, Any], timeout_s: float, retry: Retry) -> None:
        self.protocol, self.timeout_s, self.retry = root.partition("://")[0], timeout_s, retry
        self.files = _make_file_system(root, options, timeout_s)

    def find_shards(self, url: str, key: str) -> list[Listed]:
        """The shards at a URL (a folder, a glob, one shard) by one request for each thousand or so."""
        where = f"{key}={url}"
        place = self._take_apart(url, where)
        if place.name:
            return [self._describe(place.root, place.name, self._info(url, where))]
        base = self._path(place.root).rstrip("/")
        found = self.retry.call(where, lambda: self.find_all(base))
        listed = []
        for path, info in found.items():
            name = path.removeprefix(base).lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not hidden and (place.pattern is None or place.pattern.match(path)) and is_shard(name, where):
                listed.append((name, info))
        return sort_listed(self._describe_all(place.root, listed), where, key)

    def stamp(self, url: str) -> str:
        """The stamp of one shard now, by one request."""
        return _stamp(self._info(url, url))

    def checks(self, stamp: str) -> bool:
        """Whether each read of a shard with this stamp fails if the shard has changed."""
        tag = stamp.partition("-")[2]
        return self.protocol in ("s3", *_HTTP) and bool(tag) and not tag.startswith(_WEAK)

    def read(self, url: str, stamp: str, begin: int, end: int) -> bytes:
        """The bytes of a range, of the version that the stamp names."""
        data = self.retry.call(url, lambda: self.read_once(url, stamp, begin, end))
        if not self.checks(stamp) and self.stamp(url) != stamp:
            raise has_changed(url)
        return data

    def read_once(self, url: str, stamp: str, begin: int, end: int) -> bytes:
        path, checked = self._path(url), self.checks(stamp)
        tag = f'"{stamp.partition("-")[2]}"'
        if self.protocol == "s3":
            match = {"IfMatch": tag} if checked else {}
            data = sync(self.files.loop, _read_s3, self.files, path, begin, end, match, timeout=self.timeout_s)
        elif checked:
            data = self.ask("_cat_file", "cat_file", path, start=begin, end=end, headers={"If-Match": tag})
        else:
            data = self.ask("_cat_file", "cat_file", path, start=begin, end=end)
        if len(data) > end - begin:
            raise DataError("its server does not answer ranged reads", where=url, remedy="copy the shards elsewhere")
        if len(data) < end - begin:
            raise ConnectionError(f"{len(data)} bytes came instead of {end - begin}")
        return bytes(data)

    def ask(self, coroutine: str, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a file system within the time limit, if it is one that can be interrupted."""
        if isinstance(self.files, AsyncFileSystem):
            return sync(self.files.loop, getattr(self.files, coroutine), *args, timeout=self.timeout_s, **kwargs)
        return getattr(self.files, function)(*args, **kwargs)

    def find_all(self, base: str) -> dict[str, dict[str, Any]]:
        """One listing of everything below; it may take longer than a request, since it is many."""
        if self.protocol in _HTTP:  # reads the links of index pages, and would leave out what fails
            return dict(self.files.find(f"{base}/", detail=True, on_error="raise"))
        return dict(self.files.find(base, detail=True))

    def _info(self, url: str, where: str) -> dict[str, Any]:
        def attempt() -> dict[str, Any]:
            self.files.invalidate_cache()  # some keep what they have seen, whatever they are told
            return dict(self.ask("_info", "info", self._path(url)))

        info = self.retry.call(where, attempt)
        if info.get("size") is None:
            raise DataError("its server does not tell its size", where=where, remedy="copy the shards elsewhere")
        return info

    def _path(self, url: str) -> str:
        return str(self.files._strip_protocol(url))

    def _take_apart(self, url: str, where: str) -> Place:
        if "{" in url:
            raise DataError("braces are not expanded", where=where, remedy="write a glob like shard-*.tar instead")
        if "?" in url and self.protocol in _HTTP:
            raise DataError("has a query", where=where, remedy="name an index page, or a URL that ends in .tar")
        magic = _MAGIC.search(url)
        if magic:
            root = url[: magic.start()].rpartition("/")[0]
            return Place(root, re.compile(glob_translate(self._path(url))))
        if is_shard(url, where):
            root, _, name = url.rpartition("/")
            return Place(root, name=name)
        return Place(url.rstrip("/"))

    def _describe_all(self, root: str, found: list[tuple[str, dict[str, Any]]]) -> list[Listed]:
        """What a listing found; where it shows links without sizes (http), each is asked for."""
        if all(info.get("size") is not None for _, info in found):
            return [self._describe(root, name, info) for name, info in found]
        with ThreadPoolExecutor(_HEADS_AT_ONCE) as threads:
            infos = threads.map(lambda url: self._info(url, url), [f"{root}/{name}" for name, _ in found])
            return [self._describe(root, name, info) for (name, _), info in zip(found, infos, strict=True)]

    def _describe(self, root: str, name: str, info: dict[str, Any]) -> Listed:
        return Listed(name=name, url=f"{root}/{name}", size_bytes=int(info["size"]), stamp=_stamp(info))


async def _read_s3(files: Any, path: str, begin: int, end: int, match: dict[str, str]) -> bytes:
    """One GET with If-Match, which s3fs has no argument for; its own call, so that its options hold."""
    bucket, key, _ = files.split_path(path)
    answer = await files._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={begin}-{end - 1}", **match)
    async with answer["Body"] as body:
        data: bytes = await body.read()
    return data


def _stamp(info: Mapping[str, Any]) -> str:
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
    return f"{info['size']}-{version.strip(chr(34))}"


def _make_file_system(root: str, options: Mapping[str, Any], timeout_s: float) -> Any:
    protocol = root.partition("://")[0]
    module, package = PACKAGES[protocol]
    if importlib.util.find_spec(module) is None:
        raise DataError(
            f"needs the package {package}, which is not installed",
            where=root,
            remedy=f"pip install '{package}' on every node",
        )
    chosen = dict(options)
    if protocol == "s3":
        limits = {"connect_timeout": timeout_s, "read_timeout": timeout_s, "retries": {"total_max_attempts": 1}}
        chosen["config_kwargs"] = limits | dict(chosen.get("config_kwargs", {}))
    try:
        files, _ = url_to_fs(root, skip_instance_cache=True, use_listings_cache=False, **chosen)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise DataError(
            f"{package} cannot be set up: {describe(error)}",
            where=root,
            remedy=f"correct data.store.options.{protocol}, or what {package} reads from the environment",
        ) from error
    if protocol == "s3":
        files.retries = 1  # attempts; other packages' few end with the time limit of a request
    return files
