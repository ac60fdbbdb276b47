"""The long run: `python -m tests.fuzz`, for FUZZ_SECONDS (3600) in FUZZ_PROCESSES (one for each processor).

Every process goes on with new examples until the time is over. What fails is made small and written to
`tests/corpus/found.json`, whose rows the corpus test sends through a real publish from then on.
"""

import faulthandler
import json
import os
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz import archives, manifests

FOUND = Path(__file__).parents[1] / "corpus" / "found.json"
_EXAMPLES = 500
_MUTANTS = 20
_MEMORY = 2 << 30
_HANG_SECONDS = 120
_SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


class Finding(Exception):  # noqa: N818 (it is what is looked for)
    """An example that failed, as a row of the corpus."""

    def __init__(self, row: dict[str, Any], cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.row = row


def _archive_row(case: archives.Case, cause: BaseException) -> dict[str, Any]:
    contents = [content.hex() for content in case.contents]
    return {
        "contents": contents,
        "compression": _SUFFIX[case.compression],
        "image": case.is_image_layer,
        "note": f"{type(cause).__name__}: {cause}"[:300],
    }


def _try_archive(case: archives.Case) -> bool:
    try:
        return archives.check(case)
    except Exception as error:
        raise Finding(_archive_row(case, error), error) from error


def _try_manifest(case: manifests.Case) -> bool:
    try:
        return manifests.check(case)
    except Exception as error:
        note = f"{type(error).__name__}: {error} ({case.selection})"[:300]
        row = {"manifest": case.manifest.hex(), "config": case.config.hex(), "note": note}
        raise Finding(row, error) from error


def _round(number: int, counts: Counter[str]) -> None:
    """Run some hundred new examples of each kind."""
    how = settings(
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.target, Phase.shrink],
    )

    @seed(number)
    @how
    @given(case=archives.cases(), chance=st.integers(0, 1 << 30))
    def archive(case: archives.Case, chance: int) -> None:
        faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
        for one in (case, *archives.mutants(case, chance, _MUTANTS)):
            counts["archives taken" if _try_archive(one) else "archives refused"] += 1

    @seed(number)
    @how
    @given(case=manifests.cases())
    def manifest(case: manifests.Case) -> None:
        faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
        counts["manifests taken" if _try_manifest(case) else "manifests refused"] += 1

    archive()
    manifest()


def work(number: int, until: float) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Fuzz in one process until a moment of time.monotonic, and return what was done and found."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    counts: Counter[str] = Counter()
    found = []
    turn = number * 1_000_003 + time.time_ns() % 1_000_000_007
    while time.monotonic() < until:
        turn += 1
        try:
            _round(turn, counts)
        except Finding as finding:
            found.append(finding.row)
            counts["findings"] += 1
        faulthandler.cancel_dump_traceback_later()
    return counts, found


def keep(rows: list[dict[str, Any]]) -> int:
    """Add rows to the corpus' file of findings, one for each cause."""
    held = json.loads(FOUND.read_text())
    notes = {row["note"] for row in held}
    for row in rows:
        if row["note"] not in notes:
            notes.add(row["note"])
            held.append({"id": "found", "name": f"by fuzzing, {len(held) + 1}", **row, "verdict": "either"})
    FOUND.write_text("[\n" + ",\n".join("  " + json.dumps(row) for row in held) + "\n]\n")
    return len(held)


def main() -> int:
    """Run all processes, and say what came of it."""
    seconds = int(os.environ.get("FUZZ_SECONDS", "3600"))
    processes = int(os.environ.get("FUZZ_PROCESSES", str(os.cpu_count() or 1)))
    until = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(processes) as pool:
        for done, found in pool.map(work, range(processes), [until] * processes):
            counts += done
            rows += found
    print(f"{seconds} s in {processes} processes: {dict(sorted(counts.items()))}", flush=True)  # noqa: T201
    if rows:
        print(f"kept in {FOUND.name}: {keep(rows)} rows", flush=True)  # noqa: T201
    return 1 if rows else 0


if __name__ == "__main__":
    sys.exit(main())
