"""The report: one Markdown table of everybody's figures, one of the goals, and the same as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Kind, Row, paired_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a figure is worth nothing without."""

    date: str
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    missing: tuple[str, ...]


CONDITIONS = (
    "In each round everybody runs once, in turn, beginning with another one each time; a first round warms caches and "
    "is not counted. Before each run the target is empty and everything is synced; no cache is dropped, so the "
    "registry reads from memory for everybody. Ratios are medians of the pairs of a round: above 1 the contender is "
    "slower, or takes more, than the first line of its work. Our fsync is counted, peers do none; a limit is no peer, "
    "it does less."
)


def markdown(rows: list[Row], circumstances: Circumstances) -> str:
    """Return the whole report."""
    lines = [*_head(circumstances), ""]
    lines += ["| work | who | median | 99th | min - max | ratio (min - max) | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        lines += [_line(row, figure) for figure in row.figures]
    lines += ["", "| work | goal | measured | reached |", "|---|---|---|---|"]
    for row in rows:
        lines += [
            f"| {row.name} | {goal.text} | {goal.measured} | {'yes' if goal.reached else '**no**'} |"
            for goal in row.goals
        ]
    return "\n".join(lines)


def _head(circumstances: Circumstances) -> list[str]:
    named = [", ".join(f"{key} {value}" for key, value in circumstances.machine.items())]
    named.append(", ".join(f"{key} {value}" for key, value in circumstances.versions.items()))
    head = [f"Measured {circumstances.date} by `{circumstances.command}`.", "", *(f"- {line}" for line in named)]
    if circumstances.missing:
        head.append(f"- not on PATH and not measured: {', '.join(circumstances.missing)}")
    return [*head, "", CONDITIONS]


def _line(row: Row, figure: Figure) -> str:
    work = row.work if figure is row.figures[0] else ""
    tail = _amount(figure.percentile(99), figure.unit) if len(figure.samples) >= 100 else ""
    span = f"{_amount(min(figure.samples), '')} - {_amount(max(figure.samples), figure.unit)}"
    note = ", ".join(filter(None, ("limit" if figure.kind is Kind.LIMIT else "", figure.note)))
    median = _amount(figure.median, figure.unit)
    return f"| {work} | {figure.who} | {median} | {tail} | {span} | {_ratio(row, figure)} | {note} |"


def _ratio(row: Row, figure: Figure) -> str:
    """Compare with our figure of the same step; there is none for what is counted otherwise."""
    step = figure.who.partition(", ")[2]
    same = [item for item in row.figures if item.kind is Kind.OURS and item.who.partition(", ")[2] == step]
    base = same[0] if same and figure.kind is not Kind.OURS else row.ours
    if figure is base or base.unit != figure.unit or len(base.samples) != len(figure.samples):
        return ""
    middle, least, most = paired_ratio(figure, base)
    return f"{middle:.2f} ({least:.2f} - {most:.2f})"


def _amount(value: float, unit: str) -> str:
    digits = 0 if value >= 100 or value == int(value) else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def write_json(path: Path, rows: list[Row], circumstances: Circumstances) -> None:
    """Write everything, every sample among it."""
    document: dict[str, Any] = {**asdict(circumstances), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=2) + "\n")
