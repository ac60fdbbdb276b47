"""The kubelet's credential providers: its configuration, its exec protocol, and its cache rules."""

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_oras.errors import InvalidConfigError
from csi_oras.oci.reference import Reference
from csi_oras.registry import provider_config
from csi_oras.registry.credentials import Credential
from csi_oras.registry.durations import parse_duration
from csi_oras.registry.providers import Providers, ProviderSettings, UnknownYetError
from tests.support.fakes import user
from tests.support.planted import MARK
from tests.support.providers import API_VERSION, FakeProvider

IMAGE = "reg.example.com/acme/model"


class Asked:
    """Providers under a clock that stands still."""

    def __init__(self, fake: FakeProvider, timeout: float = 20) -> None:
        self.now = 0.0
        self.notes: list[str] = []
        self.settings = ProviderSettings(config_file=str(fake.config), directory=str(fake.directory))
        self.providers = Providers(lambda: self.now, timeout)

    def find(self, image: str = IMAGE, *, may_run: bool = True) -> Credential | None:
        self.notes.clear()
        repository = Reference.parse(image).repository
        return self.providers.find(self.settings, repository, self.notes.append, may_run=may_run)


@pytest.fixture
def fake(tmp_path: Path) -> FakeProvider:
    fake = FakeProvider(tmp_path)
    fake.configure("*.example.com")
    fake.answers({"*.example.com": ("robot", "right")})
    return fake


@pytest.fixture
def asked(fake: FakeProvider) -> Asked:
    return Asked(fake)


def test_plugin_is_sent_the_request_and_gives_the_credential(fake: FakeProvider, asked: Asked) -> None:
    assert asked.find() == user("robot", "right", "credential provider fake-provider")
    ((request, arguments, region),) = fake.runs
    assert request == {"kind": "CredentialProviderRequest", "apiVersion": API_VERSION, "image": IMAGE}
    assert (arguments, region) == (["get", "a b; c"], "x y")


def test_plugin_is_not_asked_about_other_images(fake: FakeProvider, asked: Asked) -> None:
    assert asked.find("reg.example.org/acme/model") is None
    assert fake.runs == []


def test_plugin_that_may_not_run_is_unknown_until_it_has_run(asked: Asked) -> None:
    with pytest.raises(UnknownYetError):
        asked.find(may_run=False)
    asked.find()
    assert asked.find(may_run=False) is not None


KEY_TYPES = [
    ("Image", [IMAGE, IMAGE, "reg.example.com/acme/other", "eu.example.com/x"], 3),
    ("Registry", [IMAGE, "reg.example.com/acme/other", "eu.example.com/x"], 2),
    ("Global", [IMAGE, "reg.example.com/acme/other", "eu.example.com/x"], 1),
]


@pytest.mark.parametrize(("key_type", "images", "runs"), KEY_TYPES)
def test_answer_holds_for_what_its_cache_key_type_says(
    fake: FakeProvider, asked: Asked, key_type: str, images: list[str], runs: int
) -> None:
    fake.answers({"*.example.com": ("robot", "right")}, cacheKeyType=key_type)
    assert all(asked.find(image) for image in images)
    assert len(fake.runs) == runs


@pytest.mark.parametrize(("duration", "seconds"), [("10m", 600), (None, 43200), ("0s", 0)])
def test_answer_holds_as_long_as_it_says_or_as_configured(
    fake: FakeProvider, asked: Asked, duration: str | None, seconds: float
) -> None:
    fake.answers({"*.example.com": ("robot", "right")}, **({"cacheDuration": duration} if duration else {}))
    asked.find()
    if seconds:
        asked.now = seconds - 1
        asked.find()
        assert len(fake.runs) == 1
    asked.now = seconds + 1
    asked.find()
    assert len(fake.runs) == 2


def test_refused_credential_is_forgotten_and_others_are_kept(fake: FakeProvider, asked: Asked) -> None:
    found = asked.find()
    assert found is not None
    asked.providers.forget(user("robot", "another"))
    asked.find()
    assert len(fake.runs) == 1
    asked.providers.forget(found)
    asked.find()
    assert len(fake.runs) == 2


def test_plugin_runs_once_for_all_who_ask_at_the_same_time(fake: FakeProvider, asked: Asked) -> None:
    gate = fake.here / "gate"
    fake.behave(f"import time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)")
    fake.answers({"*.example.com": ("robot", "right")}, cacheDuration="0s")
    with ThreadPoolExecutor(8) as pool:
        finding = [pool.submit(asked.find) for _ in range(8)]
        while not fake.runs:
            threading.Event().wait(0.01)
        threading.Event().wait(0.2)
        gate.touch()
        assert all(future.result() == user("robot", "right", "credential provider fake-provider") for future in finding)
    assert len(fake.runs) == 1


def test_changed_configuration_counts_at_once(fake: FakeProvider, asked: Asked) -> None:
    assert asked.find()
    fake.configure("elsewhere.example", args=["changed"])
    assert asked.find() is None
    fake.configure("*.example.com", args=["changed again"])
    assert asked.find()
    assert fake.runs[-1][1] == ["changed again"]


FAILURES: list[tuple[str, Callable[[FakeProvider], object], str]] = [
    ("exit", lambda fake: fake.behave("sys.exit(3)"), "failed with exit code 3"),
    ("killed", lambda fake: fake.behave("os.kill(os.getpid(), 9)"), "failed with exit code -9"),
    ("slow", lambda fake: fake.behave("import time; time.sleep(60)"), "did not answer in time"),
    (
        "child",
        lambda fake: fake.behave("import time\nif os.fork() == 0: time.sleep(60)\nos._exit(0)"),
        "did not answer in time",
    ),
    (
        "endless",
        lambda fake: fake.behave("while True: sys.stdout.write('planted' * 1000)".replace("planted", MARK)),
        "more than 1048576 bytes",
    ),
    ("no json", lambda fake: (fake.here / "answer").write_text(MARK), "gave no valid response"),
    ("list", lambda fake: (fake.here / "answer").write_text("[]"), "gave no valid response"),
    ("empty", lambda fake: (fake.here / "answer").write_text(""), "gave no valid response"),
    ("version", lambda fake: fake.answers({}, apiVersion="v2"), "gave no CredentialProviderResponse"),
    ("kind", lambda fake: fake.answers({}, kind=MARK), "gave no CredentialProviderResponse"),
    ("key type", lambda fake: fake.answers({}, cacheKeyType=MARK), "gave a cacheKeyType"),
    ("duration", lambda fake: fake.answers({}, cacheDuration="-1s"), "gave a cacheDuration"),
    ("auth", lambda fake: fake.answers({}, auth={"*.example.com": {"username": 5}}), "gave an auth"),
    ("other key", lambda fake: fake.answers({"elsewhere.example": ("a", "planted")}), "has nothing for it"),
    ("not executable", lambda fake: (fake.directory / fake.name).chmod(0o644), "cannot be started"),
    ("missing", lambda fake: (fake.directory / fake.name).unlink(), "cannot be started (No such file"),
]


@pytest.mark.parametrize(("spoil", "cause"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_plugin_that_fails_gives_nothing_in_time_and_its_words_are_not_repeated(
    fake: FakeProvider, spoil: Callable[[FakeProvider], object], cause: str
) -> None:
    spoil(fake)
    started = time.monotonic()
    asked = Asked(fake, timeout=2)
    assert asked.find() is None
    assert time.monotonic() - started < 10
    assert cause in asked.notes[0]
    assert "planted" not in asked.notes[0]
    assert asked.find() is None  # and is asked again


def test_plugin_that_wants_the_kubelets_own_tokens_is_left_alone(fake: FakeProvider, asked: Asked) -> None:
    fake.configure("*.example.com", tokenAttributes={"serviceAccountTokenAudience": "a", "requireServiceAccount": True})
    assert asked.find() is None
    assert fake.runs == []
    fake.configure(
        "*.example.com", tokenAttributes={"serviceAccountTokenAudience": "a", "requireServiceAccount": False}
    )
    assert asked.find()


NAMES = ["../fake-provider", "/bin/sh", "..", ".", "", "a b", "sub/fake", "a\0b"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_name_that_leads_out_of_the_directory_is_refused(fake: FakeProvider, asked: Asked, name: str) -> None:
    fake.configure("*.example.com", name=name)
    with pytest.raises(InvalidConfigError, match=r"no name of a provider"):
        provider_config.load(str(fake.config), str(fake.directory))
    assert asked.find() is None
    assert "cannot be used" in asked.notes[0]


WRONG = [
    *({"apiVersion": "v1"}, {"apiVersion": None}, {"matchImages": []}, {"matchImages": "x"}, {"matchImages": [5]}),
    *(
        {"defaultCacheDuration": "soon"},
        {"defaultCacheDuration": "-1s"},
        {"args": "x"},
        {"env": [{"value": "planted"}]},
    ),
    *({"env": [{"name": "A=B", "value": "planted"}]}, {"env": ["planted"]}),
]


@pytest.mark.parametrize("more", WRONG, ids=str)
def test_configuration_that_is_wrong_is_refused_and_not_quoted(fake: FakeProvider, more: dict[str, object]) -> None:
    fake.configure("*.example.com", **more)
    with pytest.raises(InvalidConfigError) as caught:
        provider_config.load(str(fake.config), str(fake.directory))
    assert "planted" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "kind: Pod", "kind: CredentialProviderConfig", "\0", "a: \xff"])
def test_file_that_is_no_configuration_is_refused(fake: FakeProvider, text: str) -> None:
    fake.config.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidConfigError, match=str(fake.config)):
        provider_config.load(str(fake.config), str(fake.directory))


def test_fifo_is_no_configuration(fake: FakeProvider) -> None:
    fake.config.unlink(missing_ok=True)
    os.mkfifo(fake.config)
    with pytest.raises(InvalidConfigError, match="not a regular file"):
        provider_config.load(str(fake.config), str(fake.directory))


def test_directory_of_configurations_is_read_in_order_and_a_name_stands_once(fake: FakeProvider) -> None:
    directory = fake.config.parent / "providers.d"
    directory.mkdir()
    document = json.loads(fake.config.read_text())
    for number in (2, 1):
        document["providers"][0]["name"] = f"provider-{number}"
        (directory / f"{number}.json").write_text(json.dumps(document))
    (directory / "README.md").write_text("no configuration")
    loaded = provider_config.load(str(directory), "/bin")
    assert [str(provider.plugin.path) for provider in loaded] == ["/bin/provider-1", "/bin/provider-2"]
    (directory / "3.yaml").write_text(json.dumps(document))
    with pytest.raises(InvalidConfigError, match="twice"):
        provider_config.load(str(directory), "/bin")


DURATIONS = [("12h", 43200), ("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), ("0", 0), ("0s", 0), ("+1m0s", 60)]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_duration_is_read_as_go_writes_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "-1s", "s", "1 s", "1d", ".s", "1h-1m", "+", "9" * 200 + "s"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)
