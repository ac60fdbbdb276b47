"""Figures: samples of one contender at one piece of work, and how two contenders compare."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """Whose figure it is; a limit is no peer, for it does less than the work."""

    OURS = "ours"
    PEER = "peer"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Samples of one contender in the order of the rounds, so that those of one round make a pair."""

    who: str
    kind: Kind
    unit: str
    samples: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    def percentile(self, percent: float) -> float:
        """Return the smallest sample that `percent` of all do not exceed (nearest rank)."""
        ranked = sorted(self.samples)
        return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the design wants of a row, what was measured, and whether that is enough."""

    text: str
    measured: str
    reached: bool


@dataclass(slots=True, kw_only=True)
class Row:
    """One piece of work with everybody's figures; the first of ours is what others are compared with."""

    name: str
    work: str
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

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

    def against_best_peer(self, ours: Figure, factor: float, text: str) -> list[Goal]:
        """Return the goal to be `factor` times as fast as the best peer, if there is any peer."""
        best = self.best_peer(ours)
        if best is None:
            return []
        ratio, _, _ = paired_ratio(best, ours)
        return [Goal(text=f"{ours.who}: {text}", measured=f"{ratio:.2f} ({best.who})", reached=ratio >= factor)]


def paired_ratio(figure: Figure, base: Figure) -> tuple[float, float, float]:
    """Return median, least and most of the ratios of samples that were taken in the same round."""
    ratios = ratios_of(figure.samples, base.samples)
    return statistics.median(ratios), min(ratios), max(ratios)


def ratios_of(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratios round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]
