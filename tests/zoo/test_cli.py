"""``kd-zoo list | info | download``."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kd_zoo import cards
from kd_zoo.cards import CARDS
from kd_zoo.cli import main

CONTENT = b"weights" * 1000
HEAVY = {"torch", "torchvision", "numpy", "pydantic", "yaml", "tqdm"}


def zoo(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if "resnet32" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:5000] if "resnet44" in self.path else CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every card's file on this machine: resnet32's is missing, resnet44's breaks off, resnet56's is another."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    address = f"http://127.0.0.1:{server.server_port}"
    local = (replace(card, url=card.url.replace("https://github.com", address)) for card in CARDS)
    known = tuple(replace(card, sha256="0" * 64) if card.name == "resnet56" else card for card in local)
    monkeypatch.setattr(cards, "CARDS", known)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def test_list_has_every_card_with_its_figures() -> None:
    lines = zoo("list").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [card.name, card.dataset]
        for card in CARDS
        for _ in ("miou", "pixel_accuracy")[: 1 + ("miou" in card.published)]
    ]
    assert lines[1].split() == ["resnet20", "cifar10", "top1", "91.92", "91.25"]
    assert len(json.loads(zoo("list", "--data", "cifar100", "--json").stdout)["cards"]) == 10


def test_list_of_a_data_set_without_weights() -> None:
    done = zoo("list", "--data", "cifar")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "did you mean 'cifar10'?" in done.stderr


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet20", 272_474), ("densenet_bc_k12_depth100", 769_162), ("wrn-40-4", 8_949_210)]
)
def test_info_measures_the_model(name: str, parameters: int, cache: Path) -> None:
    first = json.loads(zoo("info", name, "--json").stdout)["cards"][0]
    assert (first["dataset"], first["parameters"], first["downloaded"]) == ("cifar10", parameters, False)
    assert first["file"].startswith(str(cache))
    assert f"{parameters:,}" in zoo("info", name).stdout


def test_info_tells_what_is_renamed_in_the_file() -> None:
    told = [zoo("info", name).stdout.splitlines() for name in ("akamaster-resnet20", "resnet20")]
    renames = [[row for row in map(str.split, lines) if row[0] == "rename"] for lines in told]
    assert renames == [[["rename", "linear", "to", "fc"]], []]


def test_info_has_all_data_sets_or_the_one_asked_for() -> None:
    def datasets(*arguments: str) -> list[str]:
        return [each["dataset"] for each in json.loads(zoo("info", *arguments, "--json").stdout)["cards"]]

    assert datasets("wrn-28-10") == ["cifar10", "cifar100"]
    assert datasets("wrn-28-10", "--data", "cifar100") == datasets("cifar100-wrn-28-10") == ["cifar100"]


@pytest.mark.parametrize("verb", ["info", "download"])
def test_weights_that_do_not_exist_are_one_error(verb: str) -> None:
    for arguments, says in (
        (["resnet1202"], "for any data set"),
        (["resnet20", "--data", "cifar100"], "for cifar100, only for cifar10"),
        (["wrn-4010"], "did you mean 'wrn-40-4'?"),
    ):
        done = zoo(verb, *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert says in done.stderr


def test_download_prints_the_path_and_records_the_checksum(server: str, cache: Path) -> None:
    path = cache / "cifar10-resnet20.pt"
    assert zoo("download", "resnet20").stdout == f"{path}\n"
    assert path.read_bytes() == CONTENT
    told = json.loads(zoo("download", "resnet20", "--json").stdout)
    assert told["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert (told["path"], told["url"].startswith(server)) == (str(path), True)
    assert json.loads(zoo("info", "resnet20", "--json").stdout)["cards"][0]["downloaded"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet32", "the server answers 404"),
        ("resnet44", "the connection broke after 5,000 of 7,000 bytes"),
        ("resnet56", f"not {'0' * 64}; it was not kept"),
    ],
)
@pytest.mark.usefixtures("server")
def test_a_download_that_fails_leaves_nothing(name: str, says: str, cache: Path) -> None:
    done = zoo("download", name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert list(cache.iterdir()) == []


def test_the_command_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="kd-zoo")
    assert script.load() is main


def test_help_and_list_import_nothing_heavy() -> None:
    """One process for all of them: what the first imported is blamed on it, not on those after it."""
    code = """
import sys
from kd_zoo.cli import main
for arguments in (["--help"], ["list", "--help"], ["info", "--help"], ["download", "--help"], ["list"]):
    before = set(sys.modules)
    main(arguments, standalone_mode=False)
    print(*arguments, *sorted(set(sys.modules) - before), sep="\\t", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = [line.split("\t") for line in done.stderr.splitlines()]
    assert len(imported) == 5
    assert [line for line in imported if HEAVY & set(line)] == []
