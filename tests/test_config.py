"""The node policy file: the contract's defaults, every mistake with its line, and reloading."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from csi_oras.config import RELOAD_SECONDS, Policy, PolicyWatcher, load, parse
from csi_oras.errors import InvalidConfigError
from csi_oras.oci.glob import Glob

CONTRACT = """\
registries:
  hostsDirs: [/etc/containerd/certs.d]     # containerd's hosts.toml: mirrors, CAs, client certificates, plain HTTP
  allow: ["**"]                            # globs over registry/repository; deny wins
  deny: []
credentials:
  dockerConfig: []                         # node-wide credential files, re-read when they change
  providers: {configFile: "", binDir: ""}  # the kubelet's credential provider plugins
  serviceAccountTokens: []                 # [{match, audience}]: send the pod's token to these registries' token endpoint
pulls: {parallelBlobs: 4, parallelRanges: 8, rangeBytes: 16Mi, maxBytesPerSecond: 0}
limits: {artifactBytes: 0, files: 1000000, manifestBytes: 4Mi, layers: 10000, unpackRatio: 200}
store: {maxBytes: 0, highWatermark: 85, lowWatermark: 70, minAge: 10m, fsVerity: auto}
prefetch: []                               # [{reference: "registry/repo:v*", every: 15m}]: the wish list
verification: []                           # [{match: "ghcr.io/acme/**", mode: enforce|warn, cosignKeys: [FILE]}]
writeBack: {enabled: false, allow: [], maxBytes: 0, maxFiles: 100000}     # allow: [{namespaces: [..], references: [globs]}]
lazy: {enabled: true, requireIndex: false}
"""  # noqa: E501 (word for word what users were promised)


def read(text: str) -> Policy:
    return parse(text, "policy.yaml")


# -- defaults


def test_contract_sample_says_the_defaults() -> None:
    assert read(CONTRACT) == Policy()


@pytest.mark.parametrize("text", ["", "\n", "# nothing but a comment\n", "---\n", "{}"])
def test_empty_file_means_the_defaults(text: str) -> None:
    assert read(text) == Policy()


def test_no_file_means_the_defaults() -> None:
    assert load(None) == Policy()


def test_defaults_are_those_of_the_contract() -> None:
    policy = Policy()
    assert policy.registries.hosts_dirs == ("/etc/containerd/certs.d",)
    assert (policy.registries.allow, policy.registries.deny) == ((Glob.parse("**"),), ())
    assert not policy.credentials.docker_config
    assert not policy.credentials.service_account_tokens
    assert (policy.credentials.providers.config_file, policy.credentials.providers.bin_dir) == ("", "")
    pulls, limits, store = policy.pulls, policy.limits, policy.store
    assert (pulls.parallel_blobs, pulls.parallel_ranges) == (4, 8)
    assert (pulls.range_bytes, pulls.max_bytes_per_second) == (16 * 1024 * 1024, 0)
    assert (limits.artifact_bytes, limits.files, limits.manifest_bytes) == (0, 1_000_000, 4 * 1024 * 1024)
    assert (limits.layers, limits.unpack_ratio) == (10_000, 200)
    assert (store.max_bytes, store.high_watermark, store.low_watermark) == (0, 85, 70)
    assert (store.min_age, store.fs_verity) == (600, "auto")
    assert not any((policy.prefetch, policy.verification, policy.write_back.allow))
    assert (policy.write_back.enabled, policy.write_back.max_bytes, policy.write_back.max_files) == (False, 0, 100_000)
    assert (policy.lazy.enabled, policy.lazy.require_index) == (True, False)


def test_default_lets_every_repository_pass_and_an_empty_allow_none() -> None:
    assert Policy().registries.allow[0].matches("ghcr.io/acme/model")
    assert read("registries: {allow: []}").registries.allow == ()


# -- values


def test_every_key_is_taken_over() -> None:
    policy = read(
        "registries: {hostsDirs: [/a, /b], allow: [ghcr.io/acme/**], deny: ['**/secret']}\n"
        "credentials: {dockerConfig: [/c], providers: {configFile: /d, binDir: /e}}\n"
        "pulls: {parallelBlobs: 1, parallelRanges: 2, rangeBytes: 1Mi, maxBytesPerSecond: 100M}\n"
        "limits: {artifactBytes: 1Ti, files: 3, manifestBytes: 5k, layers: 6, unpackRatio: 7}\n"
        "store: {maxBytes: 1G, highWatermark: 9, lowWatermark: 8, minAge: 1h30m5s, fsVerity: 'off'}\n"
        "prefetch: [{reference: 'ghcr.io/x:v*', every: 15m}, {reference: 'ghcr.io/y'}]\n"
        "writeBack: {allow: [{namespaces: [a], references: ['ghcr.io/**']}], maxBytes: 1, maxFiles: 2}\n"
        "lazy: {enabled: false, requireIndex: true}\n"
    )
    assert policy.registries.hosts_dirs == ("/a", "/b")
    assert policy.registries.deny == (Glob.parse("**/secret"),)
    assert policy.credentials.providers.bin_dir == "/e"
    assert policy.pulls.max_bytes_per_second == 100_000_000
    assert (policy.limits.artifact_bytes, policy.limits.manifest_bytes, policy.limits.layers) == (1 << 40, 5000, 6)
    assert (policy.store.max_bytes, policy.store.min_age, policy.store.fs_verity) == (10**9, 5405, "off")
    assert [(str(p.wish), p.every) for p in policy.prefetch] == [("ghcr.io/x:v*", 900), ("ghcr.io/y:latest", 900)]
    assert policy.write_back.allow[0].namespaces == (Glob.parse("a"),)
    assert policy.lazy == replace(policy.lazy, enabled=False, require_index=True)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("7", 7),
        ("1k", 1000),
        ("1Ki", 1024),
        ("16Mi", 16 << 20),
        ("2G", 2 * 10**9),
        ("1Ti", 1 << 40),
        ('"4Ki"', 4096),
    ],
)
def test_size_is_read_in_bytes(text: str, size: int) -> None:
    assert read(f"limits: {{artifactBytes: {text}}}").limits.artifact_bytes == size


@pytest.mark.parametrize(
    "text",
    ["-1", "1.5Gi", "1e9", "16 Mi", "16MiB", "16mi", "16KI", "Mi", "0x10", "1_000", "\u0661", "true", '""', "9" * 16],
)
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="is not a size such as 16Mi"):
        read(f"limits: {{artifactBytes: {text}}}")


@pytest.mark.parametrize("key", ["pulls: {rangeBytes: 0}", "limits: {manifestBytes: 0}", "pulls: {rangeBytes: 0Mi}"])
def test_size_of_nothing_is_refused_where_it_would_stop_every_pull(key: str) -> None:
    with pytest.raises(InvalidConfigError, match="is not between"):
        read(key)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15m", 900), ("1h", 3600), ("1h30m", 5400), ("1h5s", 3605), ("0s", 0), ("90m", 5400), ("2m3s", 123)],
)
def test_duration_is_read_in_seconds(text: str, seconds: int) -> None:
    assert read(f"store: {{minAge: {text}}}").store.min_age == seconds


@pytest.mark.parametrize("text", ["5", "0", "-5m", "1.5h", "m", "5m1h", "5 m", "1d", "5min", '""', "1h30", "\u0665m"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="is not a duration such as 1h30m"):
        read(f"store: {{minAge: {text}}}")


# -- mistakes

MISTAKES = [
    ("pulls:\n  parallelBlobs: 4\n  parallelrange: 8\n", 3, 'pulls: key "parallelrange" is not known'),
    ("registry:\n  allow: []\n", 1, 'key "registry" is not known (there are: registries, credentials,'),
    ("lazy: {}\n\n\nLazy: {}\n", 4, 'key "Lazy" is not known'),
    ("lazy: {}\nlazy: {}\n", 2, 'key "lazy" is given twice'),
    ("pulls:\n  rangeBytes: 1Mi\n  rangeBytes: 2Mi\n", 3, 'pulls: key "rangeBytes" is given twice'),
    ("pulls:\n  rangeBytes: many\n", 2, 'pulls.rangeBytes: "many" is not a size'),
    ("pulls:\n  parallelBlobs: 0\n", 2, '"0" is not a number from 1 to 64'),
    ("pulls:\n  parallelBlobs: 65\n", 2, '"65" is not a number from 1 to 64'),
    ("pulls:\n  parallelBlobs: 4.0\n", 2, '"4.0" is not a number'),
    ("pulls:\n  parallelBlobs: four\n", 2, '"four" is not a number'),
    ("pulls:\n  parallelBlobs: [4]\n", 2, "is not a number"),
    ("pulls:\n  parallelBlobs: " + "9" * 5000, 2, "is not a number"),
    ("store:\n  highWatermark: 101\n", 2, "is not a number from 1 to 100"),
    ("store:\n  highWatermark: 50\n\n  lowWatermark: 60\n", 4, "store.lowWatermark is above store.highWatermark"),
    ("\nstore:\n  highWatermark: 50\n", 3, "store.lowWatermark is above store.highWatermark"),
    ("store:\n  fsVerity: maybe\n", 2, '"maybe" is not one of auto, on, off'),
    ("lazy:\n  enabled: yes\n", 2, '"yes" is not true or false'),
    ("lazy:\n  enabled: 1\n", 2, '"1" is not true or false'),
    ("lazy: true\n", 1, "lazy: is not a mapping"),
    ("lazy:\n", 1, "lazy: is not a mapping"),
    ("registries:\n  allow: ghcr.io/**\n", 2, "registries.allow: is not a list"),
    ("registries:\n  allow:\n    - a/b\n    - {b: c}\n", 4, "registries.allow: is not a text"),
    ("registries:\n  allow:\n    - a/b\n    - null\n", 4, "is null"),
    ("credentials:\n  providers:\n    binDir: null\n", 3, "credentials.providers.binDir: is null"),
    ("writeBack:\n  maxFiles: 1000001\n", 2, "is not a number from 1 to 1000000"),
    ("registries:\n  deny:\n  - ghcr.io/acme/**\n  - https://ghcr.io/**\n", 4, '"https://ghcr.io/**" is no registry/'),
    ("registries:\n  allow: ['/**']\n", 2, "registries.allow:"),
    ("registries:\n  allow: ['a/b**@sha256:*']\n", 2, "registries.allow:"),
    ("verification:\n- match: ghcr.io / acme\n  cosignKeys: [a]\n", 2, "verification.match:"),
    (
        "writeBack:\n  allow:\n  - namespaces: [a]\n    references:\n    - ghcr.io/**\n    - http://x/**\n",
        6,
        'writeBack.allow.references: "http://x/**" is no registry/repository',
    ),
    ("writeBack:\n  allow:\n  - namespaces: [team-*]\n", 3, 'writeBack.allow: key "references" is missing'),
    (
        "writeBack:\n  allow:\n  - references: []\n    namespaces:\n    - team-?\n    - Team\n",
        6,
        'writeBack.allow.namespaces: "Team" is no namespace',
    ),
    ("writeBack:\n  allow: [{references: [], namespaces: [a/b]}]\n", 2, '"a/b" is no namespace'),
    ("writeBack:\n  allow: [{references: [], namespaces: ['']}]\n", 2, '"" is no namespace'),
    ("writeBack:\n  allow: [{references: [], namespaces: [%s]}]\n" % ("a" * 64), 2, "is no namespace"),
    ("prefetch:\n  - every: 5m\n", 2, 'prefetch: key "reference" is missing'),
    ("prefetch:\n  - reference: a\n    when: 5m\n", 3, 'prefetch: key "when" is not known'),
    ("prefetch:\n  - every: 5m\n    reference: 'ghcr.io/*:v1'\n", 3, "not in its tag alone"),
    ("prefetch:\n  - reference: ghcr.io/A:v1\n", 2, "prefetch.reference: reference"),
    ("prefetch:\n  - reference: a\n    every: 0s\n", 3, 'prefetch.every: "0s" is less than 1s'),
    ("lazy: {}\nprefetch:\n  - reference: a\n  - reference: docker.io/a:latest\n", 3, 'library/a:latest" twice'),
    ("verification:\n  - match: a/b\n", 2, 'key "cosignKeys" is missing'),
    ("- a\n", 1, "is not a mapping"),
    ("text\n", 1, "is not a mapping"),
    ("a: 1\n b: 2\n", 2, "is not YAML"),
    ("lazy: {enabled: true\n", 2, "is not YAML"),
    ("lazy: *nothing\n", 1, "is not YAML"),
    ("lazy: {}\n---\nlazy: {}\n", 2, "is not YAML"),
    ("? [a, b]\n: c\n", 1, 'key "?" is not known'),
    ("base: &base {}\n<<: *base\n", 1, 'key "base" is not known'),
    ("\tlazy: {}\n", 1, "is not YAML"),
]


@pytest.mark.parametrize(("text", "line", "cause"), MISTAKES, ids=lambda value: repr(value)[:40])
def test_mistake_stops_with_the_line_that_it_stands_on(text: str, line: int, cause: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        read(text)
    assert caught.value.message.startswith(f"policy.yaml, line {line}: ")
    assert cause in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("text", ["\x00", "lazy: \x1b[2J", "[" * 5_000, "a: &a [*a]", "\ud800"], ids=ascii)
def test_text_that_is_no_yaml_is_refused_and_never_a_crash(text: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        read(text)
    assert caught.value.message.isprintable()


def test_aliases_that_multiply_are_refused_at_once() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + number)}: &{chr(98 + number)} [{', '.join([f'*{chr(97 + number)}'] * 9)}]\n" for number in range(20)
    )
    with pytest.raises(InvalidConfigError, match='key "a" is not known'):
        read(bomb)
    nested = "registries:\n  allow:\n" + "    - &a [x, x]\n    - [*a, *a]\n"
    with pytest.raises(InvalidConfigError, match="line 3"):
        read(nested)


# -- the file


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match=r"cannot be read .*check --config"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        load(tmp_path)
    os.mkfifo(tmp_path / "fifo.yaml")
    with pytest.raises(InvalidConfigError, match="not a regular file"):
        load(tmp_path / "fifo.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        load(binary)


def test_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("#" * (1 << 20) + "\n")
    with pytest.raises(InvalidConfigError, match="is larger than 1048576 bytes"):
        load(path)


def test_file_with_a_mistake_is_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("lazy: {}\nlasy: {}\n")
    with pytest.raises(InvalidConfigError, match=rf"policy file {path}, line 2: "):
        load(path)


# -- reloading


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("pulls: {parallelBlobs: 1}\n")
    return path


def test_changed_file_is_taken_over_once(path: Path) -> None:
    taken: list[Policy] = []
    watcher = PolicyWatcher(path, taken.append)
    watcher.look()
    assert taken == []
    path.write_text("pulls: {parallelBlobs: 2}\n")
    watcher.look()
    watcher.look()
    assert [policy.pulls.parallel_blobs for policy in taken] == [2]


def test_wrong_new_file_is_refused_loudly_once_and_the_old_one_stays(path: Path) -> None:
    taken: list[Policy] = []
    watcher = PolicyWatcher(path, taken.append)
    path.write_text("pulls: {}\npulse: {}\n")
    with capture_logs() as logs:
        watcher.look()
        watcher.look()
    assert taken == []
    assert [(line["log_level"], "line 2" in line["cause"]) for line in logs] == [("error", True)]
    path.write_text("pulls: {parallelBlobs: 3}\n")
    watcher.look()
    assert [policy.pulls.parallel_blobs for policy in taken] == [3]


def test_file_that_is_gone_for_a_moment_leaves_the_old_one_in_force(path: Path) -> None:
    taken: list[Policy] = []
    watcher = PolicyWatcher(path, taken.append)
    path.rename(path.with_suffix(".old"))
    with capture_logs() as logs:
        watcher.look()
    assert [line["log_level"] for line in logs] == ["error"]
    path.with_suffix(".old").rename(path)
    watcher.look()
    assert taken == []


def test_file_swapped_as_a_config_map_is_taken_over(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "policy.yaml").write_text(f"pulls: {{parallelBlobs: {number}}}\n")
    data, path = tmp_path / "..data", tmp_path / "policy.yaml"
    data.symlink_to("..1")
    path.symlink_to("..data/policy.yaml")
    taken: list[Policy] = []
    watcher = PolicyWatcher(path, taken.append)
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(data)
    watcher.look()
    assert [policy.pulls.parallel_blobs for policy in taken] == [2]


def test_file_is_looked_at_often_enough_for_the_contract() -> None:
    assert RELOAD_SECONDS <= 10 / 2
