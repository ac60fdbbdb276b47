"""Jobs: done once however many ask, and heard of by whoever asks next."""

import threading
from collections.abc import Iterator

import pytest

from csi_oras.errors import ArtifactNotFoundError
from csi_oras.telemetry.progress import RECENT_SECONDS, Counter, Progress
from csi_oras.transfer.jobs import KEPT_SECONDS, Job, Jobs
from csi_oras.transfer.turns import Turns


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Work that ends when it is told to; it counts how often it was begun."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.release = threading.Event()
        self._error = error

    def __call__(self, _job: Job[str]) -> str:
        self.begun += 1
        assert self.release.wait(30)
        if self._error:
            raise self._error
        return f"outcome {self.begun}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> Iterator[Jobs[str]]:
    turns = Turns("test", 8)
    yield Jobs(turns, clock)
    turns.close()


def heard(jobs: Jobs[str], job: Job[str]) -> str:
    with jobs.waiting(job):
        return job.future.result(30)


def test_work_of_one_key_is_begun_once_for_all_who_ask(jobs: Jobs[str]) -> None:
    work = Work()
    asked = [jobs.join("key", "registry", work) for _ in range(20)]
    assert jobs.running == 1
    work.release.set()
    assert [heard(jobs, job) for job in asked] == ["outcome 1"] * 20
    assert jobs.running == 0


def test_work_of_two_keys_runs_at_once(jobs: Jobs[str]) -> None:
    first, second = Work(), Work()
    asked = [jobs.join("first", "registry", first), jobs.join("second", "registry", second)]
    second.release.set()
    assert heard(jobs, asked[1]) == "outcome 1"
    assert not asked[0].future.done()
    first.release.set()
    assert heard(jobs, asked[0]) == "outcome 1"


def test_failure_that_nobody_waited_for_is_heard_by_the_next_and_then_tried_again(jobs: Jobs[str]) -> None:
    work = Work(ArtifactNotFoundError("x", "is gone"))
    job = jobs.join("key", "registry", work)
    work.release.set()
    with pytest.raises(ArtifactNotFoundError):
        job.future.result(30)  # ends while nobody is marked as waiting
    with pytest.raises(ArtifactNotFoundError):
        heard(jobs, jobs.join("key", "registry", work))
    assert work.begun == 1
    with pytest.raises(ArtifactNotFoundError):
        heard(jobs, jobs.join("key", "registry", work))
    assert work.begun == 2


def test_outcome_that_was_heard_is_not_kept(jobs: Jobs[str]) -> None:
    work = Work()
    job = jobs.join("key", "registry", work)
    with jobs.waiting(job):
        work.release.set()
        job.future.result(30)
    assert heard(jobs, jobs.join("key", "registry", work)) == "outcome 2"


def test_outcome_that_nobody_asks_for_is_forgotten(jobs: Jobs[str], clock: Clock) -> None:
    work = Work()
    work.release.set()
    assert jobs.join("key", "registry", work).future.result(30) == "outcome 1"
    clock.now += KEPT_SECONDS + 1
    assert heard(jobs, jobs.join("key", "registry", work)) == "outcome 2"


def test_job_that_runs_is_never_forgotten(jobs: Jobs[str], clock: Clock) -> None:
    work = Work()
    job = jobs.join("key", "registry", work)
    clock.now += 100 * KEPT_SECONDS
    assert jobs.join("key", "registry", work) is job
    work.release.set()
    assert heard(jobs, job) == "outcome 1"


def test_job_that_cannot_be_begun_leaves_no_key(clock: Clock) -> None:
    turns = Turns("test", 1)
    turns.close()
    jobs: Jobs[str] = Jobs(turns, clock)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            jobs.join("key", "registry", Work())
    assert jobs.running == 0


def test_progress_says_what_a_person_can_use(clock: Clock) -> None:
    progress = Progress(clock)
    assert progress.describe() == "asking the registry"
    counter = Counter(15_200_000_000, clock)
    progress.join("blob", counter)
    counter.resume(2_200_000_000)
    counter.advance(4_100_000_000)
    clock.now += 10
    assert progress.describe() == "41 % (6.3 GB of 15.2 GB, 410 MB/s, about 22 s left)"


def test_progress_without_a_rate_makes_no_promise(clock: Clock) -> None:
    progress = Progress(clock)
    counter = Counter(100, clock)
    counter.resume(50)
    progress.join("blob", counter)
    assert progress.describe() == "50 % (50 B of 100 B)"


def test_progress_goes_by_the_rate_of_the_last_seconds(clock: Clock) -> None:
    progress, counter = Progress(clock), Counter(100_000_000, clock)
    progress.join("blob", counter)
    counter.advance(40_000_000)  # at once, and then the network slows down
    for _ in range(20):
        clock.now += 1
        counter.advance(1_000_000)
    assert progress.describe() == "60 % (60.0 MB of 100 MB, 1.1 MB/s, about 36 s left)"
    clock.now += RECENT_SECONDS + 1
    assert progress.describe() == "60 % (60.0 MB of 100 MB, nothing came for 10 s)"
    counter.advance(5_000_000)
    assert progress.describe() == "65 % (65.0 MB of 100 MB, 500 kB/s, about 70 s left)"


def test_progress_adds_up_blobs_that_began_at_different_times(clock: Clock) -> None:
    progress, counters = Progress(clock), [Counter(50_000_000, clock) for _ in range(2)]
    for number, counter in enumerate(counters):
        progress.join(number, counter)
    counters[0].advance(10_000_000)
    clock.now += 5
    counters[1].advance(10_000_000)
    clock.now += 5
    assert progress.describe() == "20 % (20.0 MB of 100 MB, 2.0 MB/s, about 40 s left)"
