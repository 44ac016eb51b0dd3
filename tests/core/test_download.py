"""Downloads are whole, verified and in a known place, or one clear error."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kd_core import download
from kd_core.download import discard, fetch, folder_of, place, unpack
from kd_core.errors import KDError

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Answer(BaseHTTPRequestHandler):
    """/whole.bin is all there, /broken.bin stops half-way, everything else is missing."""

    def do_GET(self) -> None:
        self.server.requests += 1  # type: ignore[attr-defined]
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if "broken" in self.path else CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.requests = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_file_is_downloaded_once_into_the_hub_folder(
    server: ThreadingHTTPServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = fetch(f"{url}/a/whole.bin?x=1", sha256=SHA256)
    assert path == tmp_path / "hub" / "checkpoints" / "whole.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(f"{url}/a/whole.bin?x=1", sha256=SHA256[:8]) == path
    assert server.requests == 1  # type: ignore[attr-defined]


def test_a_file_may_have_a_name_of_its_own(url: str, tmp_path: Path) -> None:
    path = fetch(f"{url}/a/whole.bin", folder=tmp_path, name="mine.pth")
    assert path == place(f"{url}/a/whole.bin", tmp_path, "mine.pth") == tmp_path / "mine.pth"
    assert path.read_bytes() == CONTENT
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.pth", "mine.pth.sha256"]


@pytest.mark.parametrize(
    ("name", "sha256", "says"),
    [
        ("broken.bin", None, "bytes"),
        ("missing.bin", None, "404"),
        ("whole.bin", "0" * 64, "sha256"),
    ],
)
def test_what_is_not_whole_is_not_kept(url: str, tmp_path: Path, name: str, sha256: str | None, says: str) -> None:
    with pytest.raises(KDError, match=says) as caught:
        fetch(f"{url}/{name}", sha256=sha256, folder=tmp_path)
    assert f"{url}/{name}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_error_says_where_to_put_the_file(
    url: str, server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    nobody = url.replace(str(server.server_port), "1")
    with pytest.raises(KDError) as caught:
        fetch(f"{nobody}/w.pt", folder=tmp_path)
    assert f"{nobody}/w.pt" in str(caught.value)
    assert f"put the file at {tmp_path / 'w.pt'} by hand" in str(caught.value)


def test_a_file_put_there_by_hand_is_used_and_verified(tmp_path: Path) -> None:
    address = "http://127.0.0.1:1/w.pt"
    place(address, tmp_path).write_bytes(CONTENT)
    assert fetch(address, sha256=SHA256, folder=tmp_path).read_bytes() == CONTENT
    with pytest.raises(KDError, match="damaged"):
        fetch(address, sha256="1" * 64, folder=tmp_path)


def test_the_checksum_of_the_first_sight_holds(url: str, tmp_path: Path) -> None:
    path = fetch(f"{url}/whole.bin", folder=tmp_path)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(KDError, match=r"(?s)damaged.*remove it to download it again"):
        fetch(f"{url}/whole.bin", folder=tmp_path)


def test_another_address_with_the_same_file_name_is_told_apart(url: str, tmp_path: Path) -> None:
    fetch(f"{url}/a/whole.bin", folder=tmp_path)
    with pytest.raises(KDError, match="was downloaded from"):
        fetch(f"{url}/b/whole.bin", folder=tmp_path)


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://host/x", "https://host/", "https://host/a/%2e%2e", "x"]
)
def test_only_files_on_the_web_are_fetched(address: str, tmp_path: Path) -> None:
    with pytest.raises(KDError, match="is not an http or https URL of a file"):
        fetch(address, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_error(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KDError, match="cannot download"):
        fetch(f"{url}/whole.bin", folder=tmp_path / "file")


def test_a_url_of_a_config_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    official, other = "https://host/resnet18-f37072fd.pth", "https://evil/resnet18-f37072fd.pth"
    places = {place(url, folder_of(url)) for url in (official, other)}
    assert len(places) == 2
    assert all(tmp_path / "kd" in path.parents and "hub" not in path.parts for path in places)


def test_a_file_that_is_refused_goes_with_its_record(url: str, tmp_path: Path) -> None:
    discard(fetch(f"{url}/whole.bin", folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_is_larger_than_any_file_is_not_kept(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LARGEST", len(CONTENT) - 1)
    with pytest.raises(KDError, match="is larger than"):
        fetch(f"{url}/whole.bin", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def archive_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../out")],
        [member("data/../../out")],
        [member("/out")],
        [member("data/..\\..\\out")],
        [member("data/link", tarfile.SYMTYPE, "/etc"), member("data/link/passwd")],
        [member("data/link", tarfile.LNKTYPE, "../../out")],
        [member("data/pipe", tarfile.FIFOTYPE)],
        [member("data/device", tarfile.CHRTYPE)],
        [member("data/zeros", size=1 << 20)],
        [member(f"data/{number}") for number in range(20)],
    ],
)
@pytest.mark.parametrize("filtered", [True, False])
def test_an_archive_that_leads_out_or_is_a_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tarfile.TarInfo], filtered: bool
) -> None:
    if not filtered:  # as before Python 3.11.4
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(download, "LARGEST", 1 << 19)
    monkeypatch.setattr(download, "MEMBERS", 10)
    root = tmp_path / "root"
    root.mkdir()
    archive = archive_of(tmp_path / "a.tgz", *members)
    with pytest.raises(KDError, match="cannot unpack"):
        unpack(archive, "data", root)
    assert list(root.iterdir()) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tgz", "root"]


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.tgz", member("data", tarfile.DIRTYPE), member("data/x", size=3))
    (tmp_path / "root").mkdir()
    assert (unpack(archive, "data", tmp_path / "root") / "x").stat().st_size == 3
