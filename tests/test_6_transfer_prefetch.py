"""Prefetch: what a wish brings, keeps and lets go of, and when it is looked after."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi_oras import config
from csi_oras.app import Application
from csi_oras.oci.reference import Reference
from csi_oras.oci.wish import Wish
from csi_oras.store.wishes import WishRecord, WishState
from csi_oras.telemetry.progress import Progress
from csi_oras.transfer import prefetch
from csi_oras.transfer.labels import label_of
from csi_oras.transfer.prefetch import Observers
from csi_oras.transfer.request import PullRequest
from csi_oras.transfer.schedule import Due, Schedule
from tests.support.artifacts import Layer, files, manifest, sha256
from tests.support.fake_registry import FakeRegistry, basic
from tests.support.fake_server import Answer, Request, status
from tests.support.pods import wait_for
from tests.support.small_disk import small_disk

pytest_plugins = ["tests.support.fake_fixtures"]


class Node:
    """A store, and what brings wishes into it."""

    def __init__(self, state: Path, policy: str = "") -> None:
        self.app = Application(state, config.parse(policy, "policy.yaml"))
        self.told: list[tuple[str, str]] = []
        self.prefetcher = self.prefetcher_of()

    def prefetcher_of(self, watch: prefetch.Watch | None = None) -> prefetch.Prefetcher:
        def tell(reason: str, about: str, _message: str) -> None:
            self.told.append((str(reason), about))

        observers = Observers(metrics=self.app.metrics, tell=tell)
        if watch:
            observers = Observers(metrics=self.app.metrics, tell=tell, watch=watch)
        return self.app.prefetcher(observers)

    def bring(self, *wishes: str) -> bool:
        """Bring these wishes up to date, and let go of all others."""
        parsed = [Wish.parse(wish) for wish in wishes]
        self.prefetcher.adopt(parsed)
        brought = [self.prefetcher.refresh(wish) for wish in parsed]
        return all(brought)

    def records(self) -> dict[str, WishRecord]:
        return {record.reference: record for record in self.app.wishes.all()}

    def states(self) -> dict[str, str]:
        return {reference: str(record.state) for reference, record in self.records().items()}

    def holds(self, layers: list[Layer]) -> bool:
        """Whether an artifact of `layers` is kept for a wish."""
        return self.app.leases.held().reason(sha256(manifest(layers))) == "on the prefetch list"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "state")
    yield node
    node.app.close()


V1, V2, V3 = files(x=b"1"), files(x=b"2"), files(x=b"3")


def push_tags(fake: FakeRegistry, **tags: list[Layer]) -> None:
    """Let the repository of `glob` have these tags and no others."""
    fake.manifests.pop("t/x", None)
    for tag, layers in tags.items():
        fake.artifact("t/x", layers, tag)


@pytest.fixture
def glob(fake: FakeRegistry) -> str:
    """A wish for two of three tags."""
    push_tags(fake, v1=V1, v2=V2, latest=V3)
    return f"{fake.address}/t/x:v*"


def tags_of(glob: str, *tags: str) -> list[str]:
    return [glob.replace("v*", tag) for tag in tags]


# -- what a wish means


def test_tag_that_is_no_longer_listed_is_let_go_of(node: Node, fake: FakeRegistry, glob: str) -> None:
    assert node.bring(glob)
    assert node.holds(V1)
    push_tags(fake, v2=V2, v3=V3)
    assert node.bring(glob)
    assert node.states() == dict.fromkeys(tags_of(glob, "v2", "v3"), "ready")
    assert (node.holds(V1), node.holds(V2), node.holds(V3)) == (False, True, True)


def test_glob_is_said_to_mean_more_than_is_kept(
    node: Node, glob: str, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "MOST_TAGS", 2)
    push_tags(fake, v1=V1, v2=V2, v3=V3)
    assert node.bring(glob)
    assert node.states() == dict.fromkeys([*tags_of(glob, "v2", "v3"), glob], "ready")
    assert node.records()[glob].error == "3 tags match, the 2 with the highest numbers are kept"
    push_tags(fake, v1=V1, v2=V2)
    assert node.bring(glob)
    assert node.states() == dict.fromkeys(tags_of(glob, "v1", "v2"), "ready")


def test_tags_that_are_ready_are_kept_while_those_in_their_place_fail(
    node: Node, fake: FakeRegistry, glob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "MOST_TAGS", 2)
    assert node.bring(glob)
    fake.bend("/manifests/v[3-8]", status(404))
    v1, v2 = tags_of(glob, "v1", "v2")
    for number in (3, 5, 7):  # the two newest are others each time
        names = [f"v{number}", f"v{number + 1}"]
        push_tags(fake, v1=V1, v2=V2, **{name: files(x=name.encode()) for name in names})
        failures = node.app.metrics.prefetch_failures._value.get()
        assert not node.bring(glob)
        assert node.app.metrics.prefetch_failures._value.get() == failures + 2
        failed = dict.fromkeys(tags_of(glob, *names), "failed")
        assert node.states() == {v1: "ready", v2: "ready", **failed, glob: "ready"}
        assert node.holds(V1)
        assert node.holds(V2)
    push_tags(fake, v2=V2, v8=files(x=b"v8"), v9=V3)
    assert not node.bring(glob)
    assert (node.holds(V1), node.holds(V2), node.holds(V3)) == (False, True, True)  # one failed, the newest is kept
    fake.straighten()
    assert node.bring(glob)
    assert node.states().keys() == {*tags_of(glob, "v8", "v9"), glob}


def test_glob_that_matches_nothing_fails_and_keeps_what_it_had(node: Node, fake: FakeRegistry, glob: str) -> None:
    assert node.bring(glob)
    push_tags(fake, latest=V3)
    assert not node.bring(glob)
    assert node.states() == {**dict.fromkeys(tags_of(glob, "v1", "v2"), "ready"), glob: "failed"}
    assert "none of 1 tags matches" in node.records()[glob].error
    assert node.holds(V1)


def test_list_that_cannot_be_had_fails_the_glob_and_keeps_its_tags(node: Node, fake: FakeRegistry, glob: str) -> None:
    assert node.bring(glob)
    fake.bend("/tags/list", status(404), times=1)
    assert not node.bring(glob)
    assert node.states() == {**dict.fromkeys(tags_of(glob, "v1", "v2"), "ready"), glob: "failed"}
    assert node.bring(glob)
    assert node.states() == dict.fromkeys(tags_of(glob, "v1", "v2"), "ready")


def test_tag_of_a_glob_that_fails_holds_up_no_other(node: Node, fake: FakeRegistry, glob: str) -> None:
    push_tags(fake, v1=V1, v3=V3, v4=files(y=b"4"))
    fake.bend("/manifests/v4", status(404))
    assert not node.bring(glob)
    v1, v3, v4 = tags_of(glob, "v1", "v3", "v4")
    assert node.states() == {v1: "ready", v3: "ready", v4: "failed"}


def test_wish_by_digest_asks_once(node: Node, fake: FakeRegistry) -> None:
    fake.artifact("t/x", V1)
    wish = f"{fake.address}/t/x@{sha256(manifest(V1))}"
    assert node.bring(wish)
    asked = fake.count()
    assert node.bring(wish)
    assert fake.count() == asked
    assert node.holds(V1)


def test_wish_is_pulled_with_the_credential_of_the_node(tmp_path: Path, fake: FakeRegistry) -> None:
    fake.require_basic("node", "right")
    wish = fake.artifact("t/x", V1)
    auth = basic("node", "right").removeprefix("Basic ")
    (tmp_path / "config.json").write_text(json.dumps({"auths": {fake.address: {"auth": auth}}}))
    assert not Node(tmp_path / "without").bring(wish)
    assert Node(tmp_path / "with", f"credentials: {{dockerConfig: [{tmp_path / 'config.json'}]}}").bring(wish)


# -- what is kept


def test_artifact_is_kept_until_the_last_wish_that_means_it_is_gone(node: Node, glob: str) -> None:
    v1 = glob.replace("*", "1")
    assert node.bring(glob, v1)
    assert node.bring(v1)
    assert node.holds(V1)
    assert not node.holds(V2)
    assert node.bring()
    assert not node.holds(V1)
    assert node.states() == {}


def test_moved_tag_whose_artifact_cannot_be_had_keeps_the_old_one(node: Node, fake: FakeRegistry) -> None:
    wish = fake.artifact("t/x", V1)
    assert node.bring(wish)
    fake.artifact("t/x", V2)
    fake.bend("/blobs/", lambda _request, _answer: Answer(status=404))
    assert not node.bring(wish)
    record = node.records()[wish]
    assert (record.state, str(record.digest)) == (WishState.FAILED, sha256(manifest(V1)))
    assert (node.holds(V1), node.holds(V2)) == (True, False)


def test_artifact_that_is_collected_as_soon_as_it_is_here_is_no_reason_to_let_go(
    node: Node, fake: FakeRegistry
) -> None:
    wish = fake.artifact("t/x", V1)
    assert node.bring(wish)
    trees = node.app.paths.trees
    before = set(trees.iterdir())

    @contextmanager
    def collecting(_reference: Reference, _progress: Progress) -> Iterator[None]:
        yield
        for tree in set(trees.iterdir()) - before:
            tree.chmod(0o755)
            shutil.rmtree(tree)

    fake.artifact("t/x", V2)
    honest, node.prefetcher = node.prefetcher, node.prefetcher_of(collecting)
    assert not node.bring(wish)
    assert (node.holds(V1), node.holds(V2)) == (True, False)
    node.prefetcher = honest
    assert node.bring(wish)
    assert (node.holds(V1), node.holds(V2)) == (False, True)


@pytest.mark.needs("root")
def test_full_disk_is_a_failure_that_asks_for_little_and_heals(tmp_path: Path, fake: FakeRegistry) -> None:
    wish = fake.artifact("t/x", [Layer(content=bytes(64 << 20), title="large")])
    small = fake.artifact("t/y", V1)
    with small_disk(tmp_path / "disk", "48M") as disk:
        node = Node(disk.directory / "state")
        assert not node.bring(small, wish)
        assert node.states() == {small: "ready", wish: "failed"}
        assert "make room" in node.records()[wish].error
        asked = fake.count("/blobs/")
        assert not node.bring(small, wish)
        assert fake.count("/blobs/") - asked <= 1
        assert node.holds(V1)
        disk.grow("200M")
        assert node.bring(small, wish)
        node.app.close()


# -- what is said


def test_change_is_told_once(node: Node, fake: FakeRegistry) -> None:
    wish = fake.artifact("t/x", V1)
    for _ in range(2):
        assert node.bring(wish)
    fake.bend("/manifests/", status(404), times=2)
    for _ in range(2):
        assert not node.bring(wish)
    assert node.bring(wish)
    assert node.told == [("Prefetched", wish), ("PrefetchFailed", wish)]


def test_bug_that_an_artifact_shows_is_a_failure_of_that_one(
    node: Node, glob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = node.app.puller.start

    def stumble(request: PullRequest, holder: str) -> object:
        if request.reference.tag == "v2":
            raise ZeroDivisionError
        return start(request, holder)

    monkeypatch.setattr(node.app.puller, "start", stumble)
    assert not node.bring(glob)
    v1, v2 = tags_of(glob, "v1", "v2")
    assert node.states() == {v1: "ready", v2: "failed"}
    assert node.records()[v2].error == "a bug; the log has more"


def test_wish_is_pulling_from_its_first_turn_and_ready_when_looked_at_again(node: Node, fake: FakeRegistry) -> None:
    wish = fake.artifact("t/x", V1)
    seen: list[tuple[str, str]] = []

    def look(request: Request, answer: Answer) -> Answer:
        seen.append((request.path.split("/")[4], node.states()[wish]))
        return answer

    fake.bend("/t/x/", look)
    assert node.bring(wish)
    assert node.bring(wish)
    assert seen[0] == ("manifests", "pulling")
    assert set(seen[1:-1]) == {("blobs", "pulling")}
    assert seen[-1] == ("manifests", "ready")


def test_glob_is_pulling_while_its_tags_are_listed_for_the_first_time(
    node: Node, fake: FakeRegistry, glob: str
) -> None:
    seen: list[dict[str, str]] = []

    def look(_request: Request, answer: Answer) -> Answer:
        seen.append(node.states())
        return answer

    fake.bend("/tags/list", look)
    assert node.bring(glob)
    assert node.bring(glob)
    assert seen == [{glob: "pulling"}, dict.fromkeys(tags_of(glob, "v1", "v2"), "ready")]


@pytest.mark.parametrize(
    ("reference", "label"),
    [
        ("ghcr.io/acme/llama:v3", "ghcr.io_acme_llama_v3"),
        ("ghcr.io/acme/llama:V3.1-rc", "ghcr.io_acme_llama_V3.1-rc"),
        ("ghcr.io/acme/a_b:v1", "ghcr.io_acme_a_b_v1.9fffab14996a"),
        ("ghcr.io/acme/a/b:v1", "ghcr.io_acme_a_b_v1"),
        ("localhost:5000/a:v1", ""),
        ("ghcr.io/acme/llama:v1_", ""),
        ("ghcr.io/acme/llama:v1-", ""),
        (f"ghcr.io/acme/llama@sha256:{'ab' * 32}", ""),
        (f"ghcr.io/{'a' * 100}:v1", ""),
    ],
)
def test_label_is_a_label_and_of_one_reference_only(reference: str, label: str) -> None:
    prefix, _, name = label_of(Reference.parse(reference)).partition("/")
    assert prefix == "prefetch.csi.oras.land"
    assert name == label or (not label and name.rpartition(".")[2].isalnum() and len(name.rpartition(".")[2]) == 12)
    assert len(name) <= 63
    assert name[0].isalnum()
    assert name[-1].isalnum()
    assert all(character.isalnum() or character in "-_." for character in name)


# -- when


class Bringer:
    """Notes which wishes were refreshed, and does with each what it is told to."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.wanted: set[str] = set()
        self.brought: list[str] = []
        self.good = True

    def resume(self) -> set[str]:
        return self.known

    def adopt(self, wishes: Iterable[Wish]) -> None:
        self.wanted = {str(wish) for wish in wishes}

    def refresh(self, wish: Wish) -> bool:
        self.brought.append(str(wish))
        return self.good


class Clockwork:
    """A schedule on a clock that the test moves; every pause is as long as it may be."""

    def __init__(self, bringer: Bringer, **every: float) -> None:
        self.now = 1000.0
        self.every = every
        self.bringer = bringer
        self._schedule = Schedule(bringer, self._due, lambda: self.now, lambda _low, high: high)  # type: ignore[arg-type]

    def _due(self) -> list[Due]:
        return [Due(wish=Wish.parse(f"r.example/{name}"), every=every) for name, every in self.every.items()]

    def brought_after(self, seconds: float) -> int:
        """How many refreshes begin when so many seconds have passed."""
        self.now += seconds
        before = len(self.bringer.brought)
        self._schedule.tick()
        wait_for(lambda: not any(entry.is_running for entry in self._schedule._entries.values()))
        return len(self.bringer.brought) - before


def test_wish_is_looked_after_at_once_and_then_every_so_often() -> None:
    clockwork = Clockwork(Bringer(), a=900)
    assert [clockwork.brought_after(seconds) for seconds in (0, 899, 2, 899, 2)] == [1, 0, 1, 0, 1]


def test_failed_wish_is_tried_again_after_pauses_that_grow_up_to_its_period() -> None:
    clockwork = Clockwork(Bringer(), a=60)
    clockwork.bringer.good = False
    tried = [second for second in range(300) if clockwork.brought_after(1)]
    assert tried == [0, 10, 30, 70, 130, 190, 250]
    clockwork.bringer.good = True
    assert clockwork.brought_after(60) == 1
    clockwork.bringer.good = False
    assert clockwork.brought_after(60) == 1
    assert clockwork.brought_after(10) == 1


def test_wishes_that_a_start_finds_are_spread_and_new_ones_are_not() -> None:
    clockwork = Clockwork(Bringer("r.example/a:latest"), a=900, b=900)
    assert clockwork.brought_after(0) == 1
    assert clockwork.bringer.brought == ["r.example/b:latest"]
    assert [clockwork.brought_after(seconds) for seconds in (9, 1)] == [0, 1]


def test_changed_policy_counts_with_the_next_tick() -> None:
    clockwork = Clockwork(Bringer(), a=900)
    assert clockwork.brought_after(0) == 1
    clockwork.every = {"a": 30, "b": 900}
    assert clockwork.brought_after(1) == 1
    assert clockwork.bringer.wanted == {"r.example/a:latest", "r.example/b:latest"}
    assert clockwork.brought_after(30) == 1
    clockwork.every = {}
    assert clockwork.brought_after(900) == 0
    assert clockwork.bringer.wanted == set()


def test_bug_in_one_round_is_not_the_last_round() -> None:
    class Broken(Bringer):
        def refresh(self, wish: Wish) -> bool:
            super().refresh(wish)
            raise ZeroDivisionError

    clockwork = Clockwork(Broken(), a=60)
    assert [clockwork.brought_after(seconds) for seconds in (0, 9, 1)] == [1, 0, 1]
