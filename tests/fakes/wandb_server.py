"""A W&B server of this machine: takes an online run and remembers its rows; or behaves as badly as it is told to."""

import gzip
import json
from typing import Any, Literal

from tests.fakes.http_server import FakeServer, QuietHandler

Manners = Literal["good", "garbage", "error", "panic", "silent"]


class FakeWandbServer(FakeServer):
    """`history` holds the rows of the run by line; `configs` what was sent as the run's config, `page` what its page
    shows beside. `stopped`: somebody has pressed the Stop button."""

    def __init__(self, manners: Manners = "good") -> None:
        super().__init__(_Handler)
        self.manners = manners
        self.history: dict[int, dict[str, Any]] = {}
        self.configs: list[dict[str, Any]] = []
        self.page: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.alerts: list[dict[str, Any]] = []
        self.stopped = False
        self.exit_codes: list[int] = []

    @property
    def url(self) -> str:
        return self.endpoint

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.history[line] for line in sorted(self.history)]

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/file_stream"):
            self._take_rows(body)
            return {"exitcode": None, "limits": {}, "stopped": self.stopped}
        operation, variables = body.get("operationName"), body.get("variables", {})
        if operation == "RunResumeStatus":
            return {"data": {"model": {"id": "m", "name": "p", "entity": _ENTITY, "bucket": self._resumable()}}}
        if operation == "UpsertBucket":
            self.configs.append(json.loads(variables.get("config") or "{}"))
            self.page |= {name: variables[name] for name in _ON_THE_PAGE if variables.get(name) is not None}
            project = {"id": "m", "name": "p", "entity": _ENTITY}
            bucket = {"id": "r", "name": variables.get("name"), "displayName": "d", "project": project}
            bucket["historyLineCount"] = len(self.history)
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": not self.history}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        if operation == "NotifyScriptableRunAlert":
            self.alerts.append(variables)
            return {"data": {"notifyScriptableRunAlert": {"success": True}}}
        if operation == "Viewer":
            viewer = {"id": "u", "username": "u", "entity": "e", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        return {"data": {}}

    def _take_rows(self, body: dict[str, Any]) -> None:
        rows = body.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for line, text in enumerate(rows["content"], rows["offset"]):
            self.history[line] = json.loads(text)
        for text in body.get("files", {}).get("wandb-summary.json", {"content": []})["content"]:
            self.summary = json.loads(text)
        if body.get("complete"):
            self.exit_codes.append(body["exitcode"])

    def _resumable(self) -> dict[str, Any] | None:
        if not self.history:
            return None
        tail = json.dumps([json.dumps(self.rows[-1])])
        counts = {"logLineCount": 0, "historyLineCount": len(self.history), "eventsLineCount": 0}
        texts = {"summaryMetrics": "{}", "config": "{}", "historyTail": tail, "eventsTail": "[]", "displayName": "d"}
        about = {"tags": self.page.get("tags", []), "notes": self.page.get("notes"), "wandbConfig": '{"t": 1}'}
        return {"id": "r", "name": "n"} | about | counts | texts


_ENTITY = {"id": "e", "name": "e"}
_ON_THE_PAGE = ("displayName", "notes", "tags", "groupName", "jobType")


class _Handler(QuietHandler):
    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "POST":
            self._answer(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        else:
            self._reply(200, b"{}")

    def _answer(self, body: bytes) -> None:
        fake = self.fake
        match fake.manners:
            case "good" if "/upload/" in self.path:
                self._reply(200, b"{}")
            case "good":
                self._reply(200, json.dumps(fake.answer(self.path, json.loads(body))).encode())
            case "garbage":
                self._reply(200, b"<html>moved</html>")
            case "error":
                self._reply(500, b"{}")
            case "panic":
                self._reply(200, b'{"data": {}}')  # wandb-core 0.31 dies of a nil pointer when it uploads files
            case "silent":
                fake.closing.wait(60)
                self.close_connection = True

    def _reply(self, status: int, body: bytes) -> None:
        self.send_head(status, len(body), {"Content-Type": "application/json"})
        self.wfile.write(body)
