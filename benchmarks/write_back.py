"""Write-back: what pods have written goes to the registry.

A second push is of a volume above the first, of which the pod has changed something; a peer pushes all of it again.
"""

from benchmarks.contenders import Contender, interleaved
from benchmarks.figures import Row
from benchmarks.pushes import Work, contenders
from benchmarks.scale import Scale
from benchmarks.workbench import Workbench

_CHANGED = 100
"""One file of so many is written anew."""
_REUSED = 3.0
"""How many times as fast as all of it a small change ought to be."""


def push_blob(bench: Workbench, peers: set[str], runs: int) -> Row:
    """Push what a pod has written: one file of 1 GiB."""
    work = _large(bench.scale)
    row = Row(name="push-blob", work=f"capture and push, {work}")
    return _measured(row, bench, contenders(work, peers), runs)


def push_files(bench: Workbench, peers: set[str], runs: int) -> Row:
    """The same, a thousand files of 4 KiB, each a layer of its own."""
    work = _few(bench.scale)
    row = Row(name="push-files", work=f"capture and push, {work}")
    return _measured(row, bench, contenders(work, peers), runs)


def push_many(bench: Workbench, peers: set[str], runs: int) -> Row:
    """The same, ten thousand of them, packed by directory."""
    work = _many(bench.scale, is_spread=False)
    row = Row(name="push-many", work=f"capture and push, {work}")
    return _measured(row, bench, contenders(work, peers), runs)


def again_blob(bench: Workbench, peers: set[str], runs: int) -> Row:
    """Push a second time, the large file rewritten."""
    work = _large(bench.scale)
    row = Row(name="again-blob", work=f"second push, {work}, rewritten")
    return _measured(row, bench, contenders(work, peers, again=True), runs)


def again_files(bench: Workbench, peers: set[str], runs: int) -> Row:
    """Push a second time, one of a hundred files changed, each a layer of its own."""
    work = _few(bench.scale)
    row = Row(name="again-files", work=f"second push, {work}, 1 % changed")
    return _measured(row, bench, contenders(work, peers, again=True), runs, _REUSED)


def again_many(bench: Workbench, peers: set[str], runs: int) -> Row:
    """Push a second time, one of a hundred directories changed, which are packed."""
    work = _many(bench.scale, is_spread=False)
    row = Row(name="again-many", work=f"second push, {work}, 1 % changed, in one directory")
    return _measured(row, bench, contenders(work, peers, again=True), runs, _REUSED)


def again_spread(bench: Workbench, peers: set[str], runs: int) -> Row:
    """Push a second time, one file changed in each of a hundred directories, which are packed."""
    work = _many(bench.scale, is_spread=True)
    row = Row(name="again-spread", work=f"second push, {work}, 1 % changed, in every directory")
    return _measured(row, bench, contenders(work, peers, again=True), runs)


def _large(scale: Scale) -> Work:
    return Work(count=1, size=scale.written_bytes, changed=range(1))


def _few(scale: Scale) -> Work:
    files = scale.written_few
    return Work(count=files, size=scale.written_file_bytes, changed=range(0, files, _CHANGED))


def _many(scale: Scale, *, is_spread: bool) -> Work:
    files = scale.written_files
    changed = range(0, files, _CHANGED) if is_spread else range(files // _CHANGED)
    return Work(count=files, size=scale.written_file_bytes, changed=changed, is_packed=True)


def _measured(row: Row, bench: Workbench, everybody: list[Contender], runs: int, factor: float = 1) -> Row:
    row.figures = interleaved(bench, everybody, runs)
    text = f"{factor:g} times as fast as the best peer" if factor > 1 else "no slower than the best peer"
    row.goals = row.against_best_peer(factor, text)
    return row
