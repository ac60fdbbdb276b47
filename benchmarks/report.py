"""The report: a Markdown table of goals, fit for a README, one of everybody's figures, and the same as JSON."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Kind, Row, amount, paired_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a figure is worth nothing without."""

    date: str
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    missing: tuple[str, ...]


CONDITIONS = (
    "In each round everybody runs once, in turn, beginning with another one each time. Before each run the target is "
    "empty and everything is synced; no cache is dropped, so the registry reads from memory for everybody. Ratios are "
    "medians of the pairs of a round: above 1 the peer is slower, or takes more. Our fsync is counted, peers do none; "
    "a limit is no peer, it does less. Latency, rate and resets come from a relay before the registry: a request is "
    "held for a round trip, the first of a connection for two, the kernel paces each connection, and slow start is not "
    "imitated."
)


def summary(rows: list[Row], circumstances: Circumstances) -> str:
    """Return the goals of all rows, with what they were measured on."""
    lines = [*_head(rows, circumstances), ""]
    lines += ["| work | csi-oras | best peer | ratio | goal | reached |", "|---|---|---|---|---|---|"]
    for row in rows:
        for goal in row.goals:
            work = row.work if goal is row.goals[0] else ""
            ours = goal.ours.removeprefix("csi-oras ").removeprefix("csi-oras, ")
            reached = "yes" if goal.reached else "**no**"
            lines.append(f"| {work} | {ours} | {goal.peer} | {goal.ratio} | {goal.text} | {reached} |")
        if not row.goals:
            lines.append(f"| {row.work} | {row.ours} | none on PATH | | | |")
    return "\n".join(lines)


def everybody(rows: list[Row]) -> str:
    """Return the figures of all contenders."""
    lines = ["| work | who | median | 99th | min - max | ratio (min - max) | |", "|---|---|---|---|---|---|---|"]
    lines += [_line(row, figure) for row in rows for figure in row.figures]
    return "\n".join(lines)


def _head(rows: list[Row], circumstances: Circumstances) -> list[str]:
    named = [", ".join(f"{key} {value}" for key, value in circumstances.machine.items())]
    named.append(", ".join(f"{key} {value}" for key, value in circumstances.versions.items()))
    head = [f"Measured {circumstances.date} by `{circumstances.command}`.", "", *(f"- {line}" for line in named)]
    if circumstances.missing:
        head.append(f"- not on PATH and not measured: {', '.join(circumstances.missing)}")
    head.append(f"- seconds that the rows took: {', '.join(f'{row.name} {row.seconds:.0f}' for row in rows)}")
    return [*head, "", CONDITIONS]


def caption(circumstances: Circumstances) -> str:
    """Return in a line what was measured when and where."""
    machine, version = circumstances.machine, circumstances.versions["csi-oras"]
    return f"csi-oras {version}, {circumstances.date}, {machine['cores']}, load before {machine['load before']}"


def _line(row: Row, figure: Figure) -> str:
    work = row.work if figure is row.figures[0] else ""
    tail = amount(figure.percentile(99), figure.unit) if len(figure.samples) >= 100 else ""
    span = f"{amount(min(figure.samples), '')} - {amount(max(figure.samples), figure.unit)}"
    failed = f"failed in {figure.failures} of {len(figure.samples)} rounds" if figure.failures else ""
    note = ", ".join(filter(None, ("limit" if figure.kind is Kind.LIMIT else "", figure.note, failed)))
    median = amount(figure.median, figure.unit)
    return f"| {work} | {figure.who} | {median} | {tail} | {span} | {_ratio(row, figure)} | {note} |"


def _ratio(row: Row, figure: Figure) -> str:
    """Compare with our figure of the same step; there is none for what is counted otherwise."""
    if not row.compares:
        return ""
    step = figure.who.partition(", ")[2]
    same = [item for item in row.figures if item.kind is Kind.OURS and item.who.partition(", ")[2] == step]
    base = same[0] if same and figure.kind is not Kind.OURS else row.ours
    if figure is base or base.unit != figure.unit or len(base.samples) != len(figure.samples) or figure.failures:
        return ""
    middle, least, most = paired_ratio(figure, base)
    return f"{middle:.2f} ({least:.2f} - {most:.2f})"


def write_json(path: Path, rows: list[Row], circumstances: Circumstances) -> None:
    """Write everything, every sample among it."""
    document: dict[str, Any] = {**asdict(circumstances), "rows": [asdict(row) for row in rows]}
    for figure in (figure for row in document["rows"] for figure in row["figures"]):
        figure["samples"] = [None if math.isinf(sample) else sample for sample in figure["samples"]]
    path.write_text(json.dumps(document, indent=2) + "\n")
