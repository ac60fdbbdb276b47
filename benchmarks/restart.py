"""Restart: how long a driver that was killed is away, with many volumes published in a large store.

Counted from the start of its process, Python's own start included: until a Probe is answered, until the next volume is
published, and until recovery has looked at all that were there.
"""

import time

from benchmarks.contenders import say
from benchmarks.figures import Figure, Goal, Kind, Row, amount
from benchmarks.grown import Grown, says
from benchmarks.growth import memory_figure, memory_goal, resident
from benchmarks.workbench import Workbench

_MOMENTS = ("serving", "first publish", "recovered")
_MOST_SECONDS = 1.0
_LOOK_SECONDS = 0.002
_PATIENCE_SECONDS = 60.0


def restart(bench: Workbench, _peers: set[str], runs: int) -> Row:
    """Kill -9 with as many volumes and artifacts as there can be, and start again, against an empty store."""
    grown = bench.shared(Grown)
    grown.grow(bench.scale.grown_artifacts[-1])
    grown.hold(bench.scale.grown_volumes[-1])
    what = f"{grown.volumes:,} volumes, {grown.artifacts:,} artifacts"
    with bench.fresh() as place, Grown(place) as empty:
        empty.grow(1)
        stores = {what: grown, "empty store": empty}
        rounds = [{who: _restarted(store) for who, store in stores.items()} for _ in range(runs)]
        memories = {who: resident(store.driver) for who, store in stores.items()}
    grown.hold(0)
    row = Row(name="restart", work=f"start after kill -9, {what}", compares=False)
    row.figures = [
        Figure(
            who=f"csi-oras, {moment}, {who}",
            kind=Kind.OURS if who == what else Kind.LIMIT,
            unit="s",
            samples=tuple(found[who][moment] for found in rounds),
        )
        for moment in _MOMENTS
        for who in stores
    ]
    row.figures += [memory_figure(who, mebibytes) for who, mebibytes in memories.items()]
    most = max(row.figures[0].samples)
    text = f"serving within {_MOST_SECONDS:.0f} s, every time"
    row.goals = [
        Goal(text=text, ours=f"{amount(most, 's')} at most", reached=most <= _MOST_SECONDS),
        memory_goal(what, memories[what]),
    ]
    return row


def _restarted(store: Grown) -> dict[str, float]:
    """Kill the driver, start it, and return the seconds until each moment."""
    driver, log = store.driver, store.driver.directory / "driver.log"
    driver.kill()
    position = log.stat().st_size
    started = time.monotonic()
    driver.start()
    seconds = {"serving": time.monotonic() - started}
    store.publish(0, "next")
    seconds["first publish"] = time.monotonic() - started
    while not says(log, "recovered", position):
        if time.monotonic() - started > _PATIENCE_SECONDS:
            raise RuntimeError("recovery does not end")
        time.sleep(_LOOK_SECONDS)
    seconds["recovered"] = time.monotonic() - started
    store.unpublish("next")
    say(f"  {', '.join(f'{moment} {took:.3f} s' for moment, took in seconds.items())}")
    return seconds
