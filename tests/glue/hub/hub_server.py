"""A server on loopback that answers as the Hugging Face hub does, as far as its library asks here."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .hub_cache import commit_of


@dataclass
class FakeHub:
    """``models`` are folders by name, ``gated`` names that are not given out; ``commits`` is what was uploaded."""

    models: dict[str, Path]
    gated: tuple[str, ...] = ()
    refuses: int | None = None
    asked: list[str] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self.hub.asked.append(f"GET {self.path}")
        self.read()

    def do_HEAD(self) -> None:
        self.hub.asked.append(f"HEAD {self.path}")
        self.read()

    def do_POST(self) -> None:
        self.hub.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.refuses is not None:
            self.reply(b"{}", status=self.hub.refuses)
        elif self.path == "/api/repos/create":
            made = json.loads(body)
            self.hub.created.append(made)
            self.json({"url": f"{self.hub.url}/{made['organization']}/{made['name']}"})
        elif self.path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [each["path"] for each in json.loads(body)["files"]]
            self.json({"files": [{"path": each, "uploadMode": "regular", "shouldIgnore": False} for each in paths]})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.hub.commits.append({each["path"]: base64.b64decode(each["content"]) for each in files})
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            self.json({"commitOid": "0" * 40, "commitUrl": f"{self.hub.url}/{name}/commit/{'0' * 40}"})

    def read(self) -> None:
        path = self.path.removeprefix("/api/models/").lstrip("/")
        name = next((each for each in (*self.hub.models, *self.hub.gated) if path.startswith(each)), "")
        parts = path[len(name) :].strip("/").split("/")
        revision = parts[1] if len(parts) > 1 else "main"
        if not name:
            self.reply(b"", status=401, X_Error_Code="RepoNotFound")
        elif name in self.hub.gated:
            self.reply(b"", status=403, X_Error_Code="GatedRepo")
        elif revision not in ("main", commit_of(name)):
            self.reply(b"", status=404, X_Error_Code="RevisionNotFound")
        elif parts[0] != "resolve":
            files = [{"rfilename": each.name} for each in sorted(self.hub.models[name].iterdir())]
            self.json({"id": name, "sha": commit_of(name), "siblings": files})
        elif (file := self.hub.models[name] / parts[2]).is_file():
            content = file.read_bytes()
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.reply(content, ETag=tag, X_Repo_Commit=commit_of(name))
        else:
            self.reply(b"", status=404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit_of(name))

    def json(self, value: Any) -> None:
        self.reply(json.dumps(value).encode(), Content_Type="application/json")

    def reply(self, content: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Inside, the library takes a server on loopback for the hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
