"""The corpus: hostile and harmless inputs as data, each with the verdict that a real driver must come to.

Every row is an object of `tests/corpus/*.json` with `id` (the attack's row in the threat model), `name`, `reference`
(a CVE or a bug), a shape that the file's tests know how to build, and its verdict: `refused` with `code` (gRPC's; one
of several where they are separated by |) and `rule` (what the message must hold), or `mounted` with `names`, all of
what the volume then shows:

    "a"   "a*" (executable)   "a = content"   "d/"   "l -> target"

A text may be written {"of": "x", "times": 1000, "first": "...", "then": "..."}.
In every text {canary} is a folder that nothing may touch, {up} a way from anywhere to the root.
"""

import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[1] / "corpus"
_VERDICT = frozenset({"id", "name", "reference", "note", "verdict", "code", "rule", "names"})
_CONTROL = frozenset(map(chr, (*range(32), *range(127, 160))))


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """A verdict."""

    verdict: str
    code: str = "FAILED_PRECONDITION"
    rule: str = ""
    names: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row; `shape` is everything in it that says how the input is built."""

    id: str
    name: str
    expected: Expectation
    shape: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.id} {self.name}"


def load(file: str) -> list[Row]:
    """Read the rows of a file of the corpus."""
    return [row(item) for item in json.loads((CORPUS / file).read_text())]


def row(item: dict[str, Any]) -> Row:
    """Take one row to pieces."""
    verdict = {key: item[key] for key in ("verdict", "code", "rule", "names") if key in item}
    shape = {key: value for key, value in item.items() if key not in _VERDICT}
    return Row(id=item["id"], name=item["name"], expected=Expectation(**verdict), shape=shape)


def spelled(value: Any, words: dict[str, str]) -> Any:
    """Return a value of a row with its recipes for long texts cooked and `words` put in."""
    if isinstance(value, dict) and isinstance(value.get("of"), str):
        text = value.get("first", "") + value["of"] * value["times"] + value.get("then", "")
        return spelled(text, words)
    if isinstance(value, dict):
        return {key: spelled(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [spelled(item, words) for item in value]
    if isinstance(value, str) and "{" in value:
        for word, meaning in words.items():
            value = value.replace("{" + word + "}", meaning)
    return value


def listing(root: Path) -> dict[str, str]:
    """Return what a volume shows: each name as the corpus writes it, with the content of files."""
    found = {}
    for path in sorted(root.rglob("*")):
        name, status = str(path.relative_to(root)), path.lstat()
        if stat.S_ISLNK(status.st_mode):
            found[f"{name} -> {path.readlink()}"] = ""
        elif stat.S_ISDIR(status.st_mode):
            found[f"{name}/"] = ""
        else:
            assert stat.S_ISREG(status.st_mode), name
            found[name + ("*" if status.st_mode & 0o111 else "")] = path.read_bytes().decode("utf-8", "replace")
    return found


def names_of(title: str) -> list[str]:
    """Return what a volume of one file shows: its directories and itself."""
    parts = title.split("/")
    return [*("/".join(parts[:depth]) + "/" for depth in range(1, len(parts))), title]


def assert_shows(root: Path, names: Sequence[str]) -> None:
    """Hold a mounted volume to exactly the names, and to contents where they are given."""
    shown = listing(root)
    contents = dict(name.split(" = ", 1) for name in names if " = " in name)
    assert sorted(shown) == sorted(name.split(" = ", 1)[0] for name in names)
    assert {name: shown[name] for name in contents} == contents
    assert_harmless(root)


def assert_harmless(root: Path) -> None:
    """Hold everything in a volume to the modes and the owner that we give, and every link to the inside."""
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        if stat.S_ISLNK(status.st_mode):
            assert_inside(root, path)
        else:
            assert stat.S_IMODE(status.st_mode) in ((0o555,) if path.is_dir() else (0o444, 0o555)), path


def assert_inside(root: Path, link: Path) -> None:
    """Hold a link to a target that is relative and leads nowhere else, whatever links are on its way."""
    target = link.readlink()
    assert not target.is_absolute(), link
    try:
        resolved = link.resolve()
    except (RuntimeError, OSError):  # a ring
        return
    assert resolved.is_relative_to(root.resolve()), (link, target)


def assert_message(message: str, expected: Expectation, *words: str) -> None:
    """Hold a refusal's message to what a person can read on a pod: what it is about, the rule, nothing that acts."""
    for word in (expected.rule, *words):
        assert word in message, message
    assert not _CONTROL & set(message)
    assert len(message.encode()) <= 1024
