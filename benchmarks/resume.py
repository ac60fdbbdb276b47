"""What a pull fetches twice when the driver is killed in the middle of it: the link counts."""

from concurrent.futures import ThreadPoolExecutor

from benchmarks.contenders import check, publish, say
from benchmarks.figures import Figure, Goal, Kind, Row
from benchmarks.link import Link
from benchmarks.workbench import Artifact, Workbench
from tests.support.driver import Driver

_MOST_SHARE = 0.02
_PATIENCE_SECONDS = 300


def resume(bench: Workbench, _peers: set[str], runs: int) -> Row:
    """Kill -9 at half of one large blob, start, publish again."""
    with bench.link() as link:
        artifact = bench.large(1).through(link)
        twice = [_fetched_twice(bench, artifact, link) for _ in range(runs)]
    row = Row(name="resume", work=f"bytes fetched twice, kill -9 at half of one blob of {artifact.size >> 20} MiB")
    samples = tuple(count / 2**20 for count in twice)
    row.figures = [Figure(who="csi-oras publish", kind=Kind.OURS, unit="MiB", samples=samples, note="sent, over size")]
    share = max(twice) / artifact.size
    text = f"under {_MOST_SHARE:.0%} of the blob, every time"
    row.goals = [Goal(text=text, ours=f"{max(samples):.1f} MiB, {share:.2%}", reached=share < _MOST_SHARE)]
    return row


def _fetched_twice(bench: Workbench, artifact: Artifact, link: Link) -> int:
    before = link.carried
    with bench.fresh() as place, Driver(place) as driver, ThreadPoolExecutor(1) as caller:
        target = driver.target()
        first = caller.submit(publish, driver, target, artifact.reference)
        half = link.wait_until_carried(before + artifact.size // 2, _PATIENCE_SECONDS)
        driver.kill()
        if not half or first.exception() is None:
            raise RuntimeError("the driver was not killed in the middle of a pull")
        say("  killed at half")
        driver.start()
        publish(driver, target, artifact.reference)
        driver.unpublish(target)
        check(place, artifact.size, "csi-oras publish")
    return link.carried - before - artifact.size
