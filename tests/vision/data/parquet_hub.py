"""A stand-in on loopback of the Hugging Face hub with one data set of Parquet files, which gives parts of files."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = "me/birds"
COMMIT = "c" * 40
NONE: Mapping[str, str] = {}


class ParquetHub:
    """The files of a folder. ``breaks`` is how many of the next answers with parts of files end in their middle."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.breaks = 0
        self.sent: list[tuple[str, int, int]] = []
        """The parts that were given: file, first byte, last byte."""

    def entry(self, name: str) -> dict[str, Any]:
        """A file, as the hub lists it."""
        content = self.files[name]
        return {"type": "file", "path": name, "oid": sha256(content).hexdigest()[:40], "size": len(content)}


class Handler(BaseHTTPRequestHandler):
    """As much of the hub's interface as streaming asks for."""

    hub: ParquetHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].replace("%2F", "/")
        resolved = re.fullmatch(f"/datasets/{REPOSITORY}/resolve/(main|{COMMIT})/(.+)", path)
        if resolved is not None and resolved[2] in self.hub.files:
            self.file(resolved[2])
        elif path in [f"/api/datasets/{REPOSITORY}{end}" for end in ("", "/revision/main", f"/revision/{COMMIT}")]:
            self.json({"id": REPOSITORY, "sha": COMMIT, "siblings": [], "private": False, "tags": []})
        elif path.startswith(f"/api/datasets/{REPOSITORY}/tree/"):
            self.json(list(map(self.hub.entry, self.hub.files)))
        else:
            self.send(b"", 404, {"X-Error-Code": "EntryNotFound" if resolved else "RepoNotFound"})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "/paths-info/" not in self.path:
            self.json({})
            return
        names = [name for name in self.hub.files if f'"{name}"' in content or f"paths={name}" in content]
        self.json(list(map(self.hub.entry, names)))

    def file(self, name: str) -> None:
        """A file, or the part of it that is asked for."""
        content = self.hub.files[name]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            self.send(content, 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content).hexdigest()}"'})
            return
        self.hub.sent.append((name, int(asked[1]), int(asked[2])))
        part = content[int(asked[1]) : int(asked[2]) + 1]
        if self.hub.breaks:
            self.hub.breaks -= 1
            self.send(part[: len(part) // 2], 206, {"Content-Length": str(len(part)), "Connection": "close"})
            self.close_connection = True
            return
        self.send(part, 206)

    def json(self, value: Any) -> None:
        """An answer."""
        self.send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def send(self, content: bytes, status: int = 200, headers: Mapping[str, str] = NONE) -> None:
        """An answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def served(hub: ParquetHub) -> Iterator[str]:
    """The address of a hub, while it answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
