"""The hub's data, from a stand-in of the hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

REPOSITORY = "nyu-mll/glue"
OLD, NEW = "a" * 40, "b" * 40
SPLITS = ["train", "validation", "test"]
CLASSES = {"sst2": ["negative", "positive"], "mnli": ["entailment", "neutral", "contradiction"]}
"""The labels' names, as the data set's card has them."""


class Hub:
    """Files of a data set by commit; ``main`` is the newer of two."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {OLD: {}, NEW: {}}
        self.asked: list[str] = []

    def add(self, task: str, split: str, rows: list[dict[str, Any]], commits: tuple[str, ...] = (OLD, NEW)) -> None:
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(rows), sink)
        for commit in commits:
            self.files[commit][f"{task}/{split}-00000-of-00001.parquet"] = sink.getvalue().to_pybytes()

    def finish(self) -> None:
        """Write the card, which says which files are which configuration's."""
        for files in self.files.values():
            configs: dict[str, list[str]] = {}
            for path in files:
                task, name = path.split("/")
                configs.setdefault(task, []).append(name.split("-")[0])
            lines = ["---", "configs:"]
            for task, splits in configs.items():
                lines += [f"- config_name: {task}", "  data_files:"]
                for split in splits:
                    lines += [f"  - split: {split}", f"    path: {task}/{split}-*"]
            lines.append("dataset_info:")
            for task in configs:
                lines += [f"- config_name: {task}", "  features:"]
                lines += [f"  - name: {name}\n    dtype: string" for name in columns(task)]
                lines += ["  - name: label"]
                if task in CLASSES:
                    lines += ["    dtype:", "      class_label:", "        names:"]
                    lines += [f"          '{number}': {name}" for number, name in enumerate(CLASSES[task])]
                else:
                    lines += ["    dtype: float32"]
                lines += ["  - name: idx\n    dtype: int32"]
            files["README.md"] = "\n".join([*lines, "---", "GLUE"]).encode()


def columns(task: str) -> list[str]:
    return {"sst2": ["sentence"], "mnli": ["premise", "hypothesis"], "stsb": ["sentence1", "sentence2"]}[task]


class Handler(BaseHTTPRequestHandler):
    """As much of the hub's interface as loading a data set asks for."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].replace("%2F", "/")
        self.hub.asked.append(f"{self.command} {path}")
        if path.startswith(f"/datasets/{REPOSITORY}/resolve/"):
            revision, _, file = path.removeprefix(f"/datasets/{REPOSITORY}/resolve/").partition("/")
            self._file(revision, file)
        elif path in (f"/api/datasets/{REPOSITORY}", f"/api/datasets/{REPOSITORY}/revision/main"):
            self._json({"id": REPOSITORY, "sha": NEW, "siblings": [], "private": False, "tags": []})
        elif path.startswith(f"/api/datasets/{REPOSITORY}/revision/"):
            commit = path.rsplit("/", 1)[1]
            if commit in self.hub.files:
                self._json({"id": REPOSITORY, "sha": commit, "siblings": [], "private": False, "tags": []})
            else:
                self._nothing("RevisionNotFound")
        elif path.startswith(f"/api/datasets/{REPOSITORY}/tree/"):
            revision, _, folder = path.removeprefix(f"/api/datasets/{REPOSITORY}/tree/").partition("/")
            self._tree(revision, folder)
        else:
            self._nothing("RepoNotFound")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        revision = self.path.rsplit("/", 1)[1]
        self.hub.asked.append(f"POST {self.path}")
        if "/paths-info/" not in self.path or (files := self._files(revision)) is None:
            self._json({})
            return
        wanted = json.loads(content)["paths"] if content.startswith("{") else []
        self._json([entry(path, files[path]) for path in wanted if path in files])

    def _files(self, revision: str) -> dict[str, bytes] | None:
        return self.hub.files.get(NEW if revision == "main" else revision)

    def _file(self, revision: str, file: str) -> None:
        files = self._files(revision)
        if files is None:
            self._nothing("RevisionNotFound")
        elif file not in files:
            self._nothing("EntryNotFound")
        else:
            commit = NEW if revision == "main" else revision
            self._send(files[file], ETag=f'"{sha256(files[file]).hexdigest()}"', **{"X-Repo-Commit": commit})

    def _tree(self, revision: str, folder: str) -> None:
        files = self._files(revision) or {}
        prefix = f"{folder}/" if folder else ""
        inside = {path: content for path, content in files.items() if path.startswith(prefix)}
        folders = {
            prefix + path.removeprefix(prefix).split("/")[0] for path in inside if "/" in path.removeprefix(prefix)
        }
        entries = [{"type": "directory", "path": each, "oid": "0" * 40, "size": 0} for each in sorted(folders)]
        deep = "recursive=True" in self.path or "recursive=true" in self.path
        entries += [
            entry(path, content) for path, content in inside.items() if deep or "/" not in path.removeprefix(prefix)
        ]
        self._json(entries)

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _nothing(self, code: str) -> None:
        self._send(b"", status=404, **{"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "oid": sha256(content).hexdigest()[:40], "size": len(content)}


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[Hub, str]]:
    """A hub with three tasks, and its address."""
    made = Hub()
    sst2 = {
        split: [{"sentence": f"{split} {row}", "label": row % 2, "idx": row} for row in range(3)] for split in SPLITS
    }
    sst2["test"] = [{**row, "label": -1} for row in sst2["test"]]
    for split, rows in sst2.items():
        made.add("sst2", split, rows)
    made.add("sst2", "train", [{"sentence": "newer", "label": 1, "idx": 0}], commits=(NEW,))
    for split in ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"):
        label = -1 if split.startswith("test") else 2
        made.add("mnli", split, [{"premise": split, "hypothesis": "b", "label": label, "idx": 0}])
    for split in SPLITS:
        score = -1.0 if split == "test" else 2.5
        made.add("stsb", split, [{"sentence1": split, "sentence2": "b", "label": score, "idx": 0}])
    made.finish()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": made}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


NOWHERE = "http://127.0.0.1:9"
"""Where nothing answers."""
PREAMBLE = """
import json, socket, sys
from kd_core.errors import KDError
from kd_glue.data.hub_data import hub_data, resolve_data_revision
from kd_glue.data.tasks import TASKS

attempts, connect = [], socket.socket.connect

def counted(self, address):
    attempts.append(address)
    return connect(self, address)

socket.socket.connect = counted

def shown(texts):
    if texts is None:
        return None
    group = None if texts.group is None else texts.group.tolist()
    return [[column.to_pylist() for column in texts.columns], [str(each) for each in texts.target.ravel()], group]

def load(name, revision=None):
    try:
        data = hub_data(TASKS[name], revision)
        unlabelled = {key: shown(each) for key, each in data.unlabelled().items()}
        return [shown(data.train()), shown(data.val()), unlabelled]
    except KDError as error:
        return str(error)

def resolve(revision):
    try:
        return resolve_data_revision(revision)
    except KDError as error:
        return str(error)
"""


def ask(home: Path, address: str, *questions: str, **environment: str) -> list[Any]:
    """Values of expressions in a fresh interpreter, for the libraries read where the hub is when they are imported."""
    code = PREAMBLE + f"print('ANSWER' + json.dumps([{', '.join(questions)}]))"
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    given = {"HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**known, **given, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: list[Any] = json.loads(done.stdout.rpartition("ANSWER")[2])
    return answer


def test_the_hubs_data_and_its_versions(hub: tuple[Hub, str], tmp_path: Path) -> None:
    _, address = hub
    newest, old, mnli, stsb, today, same, none = ask(
        tmp_path,
        address,
        "load('sst2')",
        f"load('sst2', '{OLD}')",
        "load('mnli')",
        "load('stsb')",
        "resolve(None)",
        f"resolve('{OLD}')",
        "resolve('no-such-branch')",
    )
    assert newest[0] == [[["newer"]], ["1"], None]
    assert newest[1] == [[["validation 0", "validation 1", "validation 2"]], ["0", "1", "0"], None]
    assert newest[2] == {"test": [[["test 0", "test 1", "test 2"]], ["-100"] * 3, None]}
    assert old[0] == [[["train 0", "train 1", "train 2"]], ["0", "1", "0"], None]
    assert mnli[1] == [[["validation_matched", "validation_mismatched"], ["b", "b"]], ["2", "2"], [0, 1]]
    assert mnli[2] == {name: [[[name], ["b"]], ["-100"], None] for name in ("test_matched", "test_mismatched")}
    assert stsb[0] == [[["train"], ["b"]], ["2.5"], None]
    assert stsb[2]["test"][1] == ["nan"]
    assert (today, same) == (NEW, OLD)
    assert none == f"data.revision: {REPOSITORY} has no revision 'no-such-branch'"

    again, pinned, other, missing, cached = ask(
        tmp_path,
        NOWHERE,
        "load('mnli')",
        f"load('mnli', '{NEW}')",
        f"load('mnli', '{OLD}')",
        "load('rte')",
        "resolve(None)",
        HF_HUB_OFFLINE="1",
    )
    assert again == pinned == mnli
    assert other.startswith(f"data.revision: the hub does not answer, and the cache holds {REPOSITORY} at {NEW}")
    assert missing.startswith(f"data: cannot load {REPOSITORY} from the hub (ValueError: Couldn't find cache for")
    assert cached == NEW


@pytest.mark.slow
def test_a_copy_serves_where_nothing_answers(hub: tuple[Hub, str], tmp_path: Path) -> None:
    [first] = ask(tmp_path, hub[1], "load('sst2')")
    assert ask(tmp_path, NOWHERE, "load('sst2')", "resolve(None)") == [first, NEW]


@pytest.mark.parametrize("environment", [pytest.param({"HF_HUB_OFFLINE": "1"}, marks=pytest.mark.slow), {}])
def test_without_a_network_and_a_copy(tmp_path: Path, environment: dict[str, str]) -> None:
    found, commit, attempts = ask(tmp_path, NOWHERE, "load('sst2')", "resolve('main')", "len(attempts)", **environment)
    assert found == (
        f"data: the hub does not answer, and no copy of {REPOSITORY} is here\n"
        "    hint: data.root reads GLUE's original files from a folder"
    )
    assert commit is None
    assert attempts == (0 if environment else 2)  # the library alone tries again and again


@pytest.mark.slow
def test_a_hub_without_the_data_set(hub: tuple[Hub, str], tmp_path: Path) -> None:
    [found] = ask(tmp_path, f"{hub[1]}/elsewhere", "load('sst2')")
    assert found.startswith(f"data: the hub has no data set {REPOSITORY}\n")
