"""Broken and hostile texts: each is answered with one place and one reason."""

from __future__ import annotations

import pytest

from kd_core.config import load, loads
from kd_core.errors import ConfigError

DEEP = 200
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGE_BOMB = "base: &base {" + ", ".join(f"k{n}: 0" for n in range(2000)) + "}\nlist:\n" + "- {<<: *base}\n" * 60
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 90))

# text -> place, part of the message, part of the hint
BROKEN: dict[str, tuple[str, str, str]] = {
    # no config at all
    "": ("1:1", "the file is empty", ""),
    "# only a comment\n": ("1:1", "the file is empty", ""),
    "---\n": ("1:1", "the file is empty", ""),
    "null": ("1:1", "the file is empty", ""),
    "- 1\n- 2\n": ("1:1", "a config is a mapping, not a list", ""),
    "just text": ("1:1", "a config is a mapping, not a string", ""),
    "3": ("1:1", "a config is a mapping, not a number", ""),
    "!call:torch.nn.ReLU {}": ("1:1", "a config is a mapping, not a !call", ""),
    "a: 1\n---\nb: 2\n": ("2:1", "a second document starts here", "remove the ---"),
    "a: 1\n...\nb: 2\n": ("3:1", "", ""),
    # characters
    "a: \x00": ("1:4", "control character U+0000", ""),
    "a: 1\nb: \x1b[31m": ("2:4", "control character U+001B", ""),
    'a: "\\0"': ("1:4", "text with a control character", ""),
    '"\\e[31m": 1': ("1:1", "text with a control character", ""),
    'a: "\\uD800"': ("1:4", "half a surrogate pair", ""),
    'a: "\\UFFFFFFFF"': ("1:", "the escape is out of range", ""),
    'a: "\\q"': ("1:6", "not valid YAML: found unknown escape character 'q'", ""),
    "a: \ufeff": ("1:4", "control character U+FEFF", ""),
    # indentation, tabs, brackets, quotes
    "a:\n\tb: 1\n": ("2:1", "a tab where YAML wants spaces", "indent with spaces"),
    "a: b: c\n": ("1:5", "a second ':'", "quote a string"),
    "a: [1, 2\n": ("2:1", "not valid YAML", ""),
    "a: {b: 1\n": ("2:1", "not valid YAML", ""),
    'a: "open\n': ("2:1", "not valid YAML: found unexpected end of stream", ""),
    "a: 1\n  b: 2\n": ("2:4", "or a wrong indentation", "quote a string that holds ': '"),
    "a: @x\n": ("1:4", "not valid YAML: found character '@'", "quote a string that starts with it"),
    "a: `x`\n": ("1:4", "not valid YAML: found character '`'", ""),
    "a: %x\n": ("1:4", "not valid YAML: found character '%'", ""),
    "a: ]\n": ("1:4", "not valid YAML", ""),
    "%YAML 9.9\n---\na: 1\n": ("1:1", "incompatible YAML document", ""),
    "%TAG ! tag:x,2000:\n---\na: !call:X {}\n": ("3:4", "unknown tag", ""),
    "a: !<tag:x> 1": ("1:4", "unknown tag", ""),
    # keys
    "a: 1\na: 2\n": ("2:1", "the key 'a' is repeated", "first given at <string>:1:1"),
    "x: {b: 1, c: 2, b: 3}": ("1:17", "the key 'b' is repeated", "<string>:1:5"),
    "1: x\n": ("1:1", "a key must be a string, not a number", "quote it"),
    "null: x\n": ("1:1", "a key must be a string, not null", ""),
    "true: x\n": ("1:1", "a key must be a string, not true", ""),
    "? [a]\n: x\n": ("1:3", "a key must be a string, not a list", ""),
    "? {a: 1}\n: x\n": ("1:3", "a key must be a string, not a mapping", ""),
    "{[]: x}": ("1:2", "a key must be a string, not a list", ""),
    "? !call:X {}\n: x\n": ("1:3", "a key must be a string, not a !call", ""),
    # merge keys
    "a: {<<: 3}": ("1:9", "<< takes an alias of a mapping", ""),
    "a: {<<: [3]}": ("1:10", "<< takes an alias of a mapping", ""),
    "a: &a {x: 1}\nb: {<<: *a, <<: *a}": ("2:13", "'<<' is repeated", "[*first, *second]"),
    "c: &c !call:X {}\nb: {<<: *c}": ("2:9", "not a !call", ""),
    MERGE_BOMB: ("", "<< copies more than 50000 values", ""),
    # anchors
    "a: *b\n": ("1:4", "there is no anchor &b above", ""),
    "base: &base 1\nb: *bas\n": ("2:4", "there is no anchor &bas", "did you mean *base?"),
    "a: &a [*a]\n": ("1:8", "the alias *a stands inside the value it names", ""),
    "a: &a {b: {c: *a}}\n": ("1:15", "the alias *a stands inside", ""),
    "a: &a !call:X [*a]\n": ("1:16", "the alias *a stands inside", ""),
    "a: &x 1\nb: &x 2\n": ("2:4", "the anchor &x is already defined", ""),
    BOMB: ("15:6", "more than 50000 values", ""),
    CHAIN: ("65:6", "nested deeper than 64 levels", ""),
    "a: " + "[" * DEEP + "]" * DEEP: ("1:67", "nested deeper than 64 levels", ""),
    "a: " + "{b: " * DEEP + "}" * DEEP: ("1:256", "nested deeper than 64 levels", ""),
    "a: " + "!call:X [" * DEEP + "]" * DEEP: ("1:571", "nested deeper than 64 levels", ""),
    "- " * DEEP + "x": ("1:129", "nested deeper than 64 levels", ""),
    "a: [" + "1, " * 50_001 + "]": ("1:4", "more than 50000 values", ""),
    # scalars that look like something they are not
    "a: True": ("1:4", "True is not a YAML value", "write true, or 'True' for a string"),
    "a: FALSE": ("1:4", "FALSE is not a YAML value", "write false"),
    "a: None": ("1:4", "None is not a YAML value", "write null"),
    "a: 012": ("1:4", "012 starts with a zero", "write 12, or '012'"),
    "a: -007": ("1:4", "-007 starts with a zero", "write -7, or '-007'"),
    "a: 1e999": ("1:4", "1e999 is too large", ".inf"),
    "a: " + "9" * 5000: ("1:4", "a number of 5000 digits", "quote it"),
    "a: !!python/object/apply:os.system [ls]": ("1:4", "unknown tag !!python/object/apply:os.system", "!!str"),
    "a: !!timestamp 2020-01-01": ("1:4", "unknown tag !!timestamp", ""),
    "a: !!binary aGk=": ("1:4", "unknown tag !!binary", ""),
    "a: !!int x": ("1:4", "!!int: this is a string", ""),
    "a: !!bool 1": ("1:4", "!!bool: this is a number", ""),
    "a: !!map [1]": ("1:4", "!!map: this is a list", ""),
    # tags
    "a: !cal:X {}": ("1:4", "unknown tag !cal", "did you mean !call?"),
    "a: !import_cal {key: X}": ("1:4", "unknown tag !import_cal", "did you mean !import_call?"),
    "a: !zzzz 1": ("1:4", "unknown tag !zzzz", "tags are: !abspath"),
    "a: [!call:X, 1]": ("1:5", "YAML takes the ',' behind !call:X for a part of the tag", "write !call:X {}"),
    "a: [!call:X,1]": ("1:5", "YAML takes the ','", "write !call:X {}"),
    "a: [1, !call:X]": ("1:8", "YAML takes the ']'", "write !call:X {}"),
    "a: [!call:X]\nb: 1\n": ("1:5", "YAML takes the ']'", "write !call:X {}"),
    "a: {b: !call:X}": ("1:8", "YAML takes the '}'", "write !call:X {}"),
    "a: {b: !call:torch.nn.ReLU, c: 1}": ("1:8", "YAML takes the ','", "write !call:torch.nn.ReLU {}"),
    "a: !call:X{lr: 1}": ("1:4", "YAML takes the '{'", "write !call:X {}"),
    "a: !call:X(3, 4)": ("1:4", "YAML takes the '('", "write !call:X [...]"),
    "a: [!get:X]": ("1:5", "YAML takes the ']'", "put a space behind it: !get:X ]"),
    "a: {b: !get:X, c: 1}": ("1:8", "YAML takes the ','", "put a space behind it: !get:X ,"),
    "a: !call X": ("1:4", "!call: names its target behind a colon", "write !call:X {}"),
    "a: !call {key: X}": ("1:4", "!call: names its target behind a colon", "!call:torch.nn.ReLU {}"),
    "a: !get torch.float32": ("1:4", "!get: names its target behind a colon", "write !get:torch.float32"),
    "a: !call:X 3": ("1:4", "!call: takes a mapping", "write !call:X [3]"),
    "a: !call:a..b {}": ("1:4", "'a..b' is not a dotted path", "torch.nn.ReLU"),
    "a: !call:.a {}": ("1:4", "'.a' is not a dotted path", ""),
    "a: !call:a-b {}": ("1:4", "'a-b' is not a dotted path", ""),
    "a: !get:X {b: 1}": ("1:4", "!get: takes nothing but its target", "!call:X"),
    "a: !import_call:X {}": ("1:4", "!import_call: takes nothing behind a colon", "!call:dotted.path"),
    "a: !import_call {ky: X}": ("1:18", "!import_call: there is no key 'ky'", "did you mean 'key'?"),
    "a: !import_call {init: {}}": ("1:4", "!import_call: key missing", ""),
    "a: !import_call X": ("1:4", "!import_call: takes a mapping with key, package, init, not a string", ""),
    "a: !import_call {key: X, init: [1]}": ("1:32", "init: takes a mapping", ""),
    "a: !import_call {key: X, init: {arg: 1}}": ("1:33", "there is no key 'arg'", "did you mean 'args'?"),
    "a: !import_call {key: X, init: {args: 1}}": ("1:39", "args must be a list, not a number", ""),
    "a: !import_call {key: X, init: {kwargs: [1]}}": ("1:41", "kwargs must be a mapping, not a list", ""),
    "a: !import_call {key: 3}": ("1:23", "3 is not a dotted path", ""),
    "a: !import_call {key: null, package: a}": ("1:23", "None is not a dotted path", ""),
    "a: !import_call_method {package: x}": ("1:4", "method_name missing", ""),
    "a: !import_get {key: [1]}": ("1:22", "is not a dotted path", ""),
    "a: !run [steps]": ("1:4", "!run: takes a name, not a list", "write !run steps"),
    "a: !run:steps": ("1:4", "!run: takes nothing behind a colon", "write !run steps"),
    "a: !join abc": ("1:4", "!join: takes a list of texts and numbers, not a string", ""),
    "a: !join [a, null]": ("1:14", "!join: joins texts and numbers, not null", ""),
    "a: !join [a, [b]]": ("1:14", "!join: joins texts and numbers, not a list", ""),
    "a: !pathjoin [~, data]": ("1:15", "!pathjoin: joins texts and numbers, not null", "quote it: '~'"),
    "a: !pathjoin []": ("1:4", "!pathjoin: takes a list", ""),
    "a: !expanduser [x]": ("1:4", "!expanduser: takes a path, not a list", ""),
    "a: !abspath": ("1:4", "!abspath: takes a path, not nothing", ""),
    "a: !getattr [x]": ("1:4", "!getattr: takes [object, name] or [object, name, default], not 1 item", ""),
    "a: !getattr [x, 3]": ("1:17", "!getattr: the name must be a string, not a number", ""),
    "a: !getattr [x, a.b]": ("1:17", "!getattr: 'a.b' is not a name", ""),
    "a: !getattr {obj: x}": ("1:4", "!getattr: takes [object, name]", ""),
    "a: !setattr [x, y]": ("1:4", "!setattr: takes [object, name, value], not 2 items", ""),
    "a: !item [1]": ("1:4", "!item: takes [data, index or key]", ""),
    "a: !access_by_index_or_key {data: x}": ("1:4", "index_or_key missing", ""),
    "a: !call_method {obj: x}": ("1:4", "!call_method: method_name missing", ""),
    "a: !call_method {obj: x, method: y}": ("1:26", "there is no key 'method'", "did you mean 'method_name'?"),
    "a: !call_method:m {obj: x, returns_obj: 3}": ("1:41", "returns_obj must be true or false", ""),
    # extends
    "extends: 3": ("1:10", "extends: takes a file or a list of files, not a number", ""),
    "extends: [a.yaml, {}]": ("1:19", "extends: takes a file or a list of files, not a mapping", ""),
    "extends: nowhere.yaml": ("1:10", "extends: nowhere.yaml: no such file", ""),
    "extends: /": ("1:10", "extends: /: this is a directory, not a config", ""),
    "extends: /dev/zero": ("1:10", "extends: /dev/zero: this is not a regular file", ""),
    "extends: [" + "x.yaml, " * 40 + "]": ("1:10", "names more than 32 files", ""),
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: repr(text[:40]))
def test_broken(text: str) -> None:
    place, message, hint = BROKEN[text]
    with pytest.raises(ConfigError) as caught:
        loads(text)
    problem = caught.value.problems[0]
    assert str(problem).startswith(f"<string>:{place}"), str(problem)
    assert message in str(problem)
    assert hint in (problem.hint or "")
    assert len(str(caught.value)) < 2000


def test_all_independent_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        loads("a: True\nb: !cal:X {}\nc: 1\nc: 2\nd: *x\n", overrides=["e", "f..g=1"])
    places = [str(problem.mark) for problem in caught.value.problems]
    assert places == ["<string>:1:4", "<string>:2:4", "<string>:4:1", "<string>:5:4", "--set e", "--set f..g=1"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: \xff\n", "x.yaml:1:4: not UTF-8 text"),
        (b"a: 1\nb: caf\xe9\n", "x.yaml:2:7: not UTF-8 text"),
        ("a: 1".encode("utf-16"), "x.yaml:1:1: not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", "x.yaml:1:1: not UTF-8 text"),
        (b"", "x.yaml:1:1: the file is empty"),
        (b"\xef\xbb\xbf", "x.yaml:1:1: the file is empty"),
        (b"a: " + b"x" * 300_000, "x.yaml: larger than 256 KiB"),
        (b"\xef\xbb\xbfa: True", "x.yaml:1:4: True is not a YAML value"),
        (b"a: 1\r\nb: True\r\n", "x.yaml:2:4: True is not a YAML value"),
    ],
)
def test_broken_files(tmp_path, monkeypatch, data: bytes, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load("x.yaml")
    assert str(caught.value).startswith(expected)


def test_no_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"^confg\.yaml: no such file\n +hint: did you mean config\.yaml\?$"):
        load("confg.yaml")
    with pytest.raises(ConfigError, match=r"this is a (directory|run folder), not a config"):
        load(".")
    with pytest.raises(ConfigError, match="not a directory"):
        load("config.yaml/x")
    with pytest.raises(ConfigError, match="name too long"):
        load("x" * 5000)
    with pytest.raises(ConfigError, match="not a file name"):
        load("a\0b")
    with pytest.raises(ConfigError, match="this is not a regular file"):
        load("/dev/null")


def test_byte_order_mark_and_unicode(tmp_path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes("\ufeffnäme: 蒸留 🧪\n".encode())
    assert load(path).data == {"näme": "蒸留 🧪"}
