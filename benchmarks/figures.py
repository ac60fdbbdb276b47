"""Figures: samples of one contender at one piece of work, and how two contenders compare."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

Point = tuple[float, float]


class Kind(StrEnum):
    """Whose figure it is; a limit is no peer, for it does less than the work."""

    OURS = "ours"
    PEER = "peer"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Samples of one contender in the order of the rounds, so that those of one round make a pair; inf is a failure."""

    who: str
    kind: Kind
    unit: str
    samples: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def failures(self) -> int:
        """In how many rounds it did not do the work."""
        return sum(map(math.isinf, self.samples))

    def __str__(self) -> str:
        """Whose it is, and the middle."""
        return f"{self.who} {amount(self.median, self.unit)}"

    def percentile(self, percent: float) -> float:
        """Return the smallest sample that `percent` of all do not exceed (nearest rank)."""
        ranked = sorted(self.samples)
        return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the design wants of a row, what was measured, and whether that is enough."""

    text: str
    ours: str
    reached: bool
    peer: str = ""
    ratio: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """How something grows: each curve by its name, and what the design wants them to stay below."""

    title: str
    x: str
    y: str
    curves: Mapping[str, Sequence[Point]]
    goal: Sequence[Point]


@dataclass(slots=True, kw_only=True)
class Row:
    """One piece of work with everybody's figures; the first of ours is what others are compared with."""

    name: str
    work: str
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    compares: bool = True
    """Whether figures are compared with the first of ours; else each says itself what it is compared with."""
    seconds: float = 0
    """What measuring it took."""

    @property
    def ours(self) -> Figure:
        """The figure that others are compared with."""
        return next(figure for figure in self.figures if figure.kind is Kind.OURS)

    def of(self, kind: Kind) -> list[Figure]:
        """Return the figures of a kind."""
        return [figure for figure in self.figures if figure.kind is kind]

    def best_peer(self, ours: Figure) -> Figure | None:
        """Return the peer that is nearest to `ours`, or ahead of it by most, by the medians of the pairs."""
        return min(self.of(Kind.PEER), key=lambda peer: paired_ratio(peer, ours)[0], default=None)

    def against_best_peer(self, factor: float, text: str) -> list[Goal]:
        """Return for each of our figures the goal to be `factor` times as fast as the best peer, if there is any."""
        pairs = [(self.best_peer(ours), ours) for ours in self.of(Kind.OURS)]
        failed = ", ".join(f"{peer.who} failed{_often(peer)}" for peer in self.of(Kind.PEER) if peer.failures)
        return [against(peer, ours, factor, text, failed) for peer, ours in pairs if peer]


def against(peer: Figure, ours: Figure, factor: float, text: str, failed: str = "") -> Goal:
    """Return the goal that `ours` is `factor` times as fast as `peer`; `failed` tells of other peers."""
    ratio, _, _ = paired_ratio(peer, ours)
    theirs = "" if math.isinf(peer.median) else str(peer)
    return Goal(
        text=text,
        ours=str(ours),
        reached=ratio >= factor and math.isfinite(ours.median),
        peer="; ".join(filter(None, (theirs, failed))),
        ratio=f"{ratio:.2f}" if theirs else "",
    )


def _often(figure: Figure) -> str:
    rounds = len(figure.samples)
    return "" if figure.failures == rounds else f" in {figure.failures} of {rounds} rounds"


def paired_ratio(figure: Figure, base: Figure) -> tuple[float, float, float]:
    """Return median, least and most of the ratios of samples that were taken in the same round."""
    ratios = ratios_of(figure.samples, base.samples)
    return statistics.median(ratios), min(ratios), max(ratios)


def ratios_of(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratios round by round; who fails takes for ever, whatever the other does."""
    return [a if math.isinf(a) else a / b for a, b in zip(above, below, strict=True)]


def amount(value: float, unit: str) -> str:
    """Format a measured value."""
    if math.isinf(value):
        return "failed"
    digits = 0 if value >= 100 or value == int(value) else 2
    return f"{value:.{digits}f} {unit}".rstrip()
