"""The attribute table, parsed: each key, its values, its default, and what is refused."""

import itertools

import pytest

from csi_oras.errors import InvalidRequestError
from csi_oras.oci.platform import Platform
from csi_oras.oci.selection import Selection
from csi_oras.transfer.request import PullPolicy
from csi_oras.volume.attributes import KEYS, parse

_OUT = {"writeBackReference": "reg.example/out:v1"}
_REFERENCE = {"reference": "reg.example/team/model:v1"}

CONTRACT = {
    "reference", "pullPolicy", "platform", "include", "exclude", "mediaTypes", "unpack", "path", "mode", "noexec",
    "metadata", "writeBackReference", "writeBackInclude", "writeBackExclude",
}  # fmt: skip


def test_keys_are_those_of_the_contract() -> None:
    assert set(KEYS) == CONTRACT


def test_defaults_are_those_of_the_contract() -> None:
    found = parse(_REFERENCE, {})
    assert str(found.reference) == "reg.example/team/model:v1"
    assert found.pull_policy is PullPolicy.IF_NOT_PRESENT
    assert found.platform is None
    assert found.selection == Selection()
    assert not found.noexec


@pytest.mark.parametrize(
    ("reference", "policy"),
    [
        ("reg.example/a", PullPolicy.ALWAYS),
        ("reg.example/a:latest", PullPolicy.ALWAYS),
        ("reg.example/a:v1", PullPolicy.IF_NOT_PRESENT),
        (f"reg.example/a@sha256:{'0' * 64}", PullPolicy.IF_NOT_PRESENT),
        (f"reg.example/a:latest@sha256:{'0' * 64}", PullPolicy.IF_NOT_PRESENT),
    ],
)
def test_pull_policy_defaults_as_kubernetes_has_it(reference: str, policy: PullPolicy) -> None:
    assert parse({"reference": reference}, {}).pull_policy is policy


@pytest.mark.parametrize("policy", list(PullPolicy))
def test_pull_policy_that_is_given_is_taken(policy: PullPolicy) -> None:
    assert parse({"reference": "reg.example/a", "pullPolicy": str(policy)}, {}).pull_policy is policy


def test_lists_and_switches_are_read() -> None:
    found = parse(
        {
            **_REFERENCE,
            "platform": "linux/arm64/v8",
            "include": "*.json, weights/** ,",
            "exclude": "./secret/",
            "mediaTypes": "application/x.a, application/x.b",
            "unpack": "never",
            "path": "./a/b/",
            "mode": "eager",
            "noexec": "True",
            "metadata": "true",
        },
        {},
    )
    assert found.platform == Platform("linux", "arm64", "v8")
    assert [glob.pattern for glob in found.selection.include] == ["*.json", "weights/**"]
    assert [glob.pattern for glob in found.selection.exclude] == ["secret"]
    assert found.selection.media_types == {"application/x.a", "application/x.b"}
    assert not found.selection.unpack
    assert found.selection.metadata
    assert str(found.selection.path) == "a/b"
    assert found.noexec


@pytest.mark.parametrize("path", ["var/lib/dpkg/info/libc6:amd64.list", "system\\x2d.slice"])
def test_path_may_have_what_names_of_images_have(path: str) -> None:
    assert str(parse({**_REFERENCE, "path": path}, {}).selection.path) == path


@pytest.mark.parametrize("path", ["", ".", "/", "./"])
def test_path_of_the_root_is_no_path(path: str) -> None:
    assert parse({**_REFERENCE, "path": path}, {}).selection.path is None


def test_empty_values_are_as_if_not_given() -> None:
    assert parse({**_REFERENCE, **dict.fromkeys(CONTRACT - {"reference"}, "")}, {}) == parse(_REFERENCE, {})


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, ["reference", "missing"]),
        ({"reference": ""}, ["reference", "missing"]),
        ({"reference": "reg.example/UPPER:v1"}, ["UPPER"]),
        ({"reference": "reg.example/a:v1\x1b[31m"}, ["reg.example/a"]),
        ({"reference": "reg.example/../a:v1"}, ["reg.example"]),
        ({**_REFERENCE, "pullPolicy": "always"}, ["pullPolicy", "Always, IfNotPresent or Never"]),
        ({**_REFERENCE, "platform": "linux"}, ["platform"]),
        ({**_REFERENCE, "mediaTypes": "no media type"}, ["mediaTypes", "no media type"]),
        ({**_REFERENCE, "unpack": "yes"}, ["unpack", "auto or never"]),
        ({**_REFERENCE, "path": "../up"}, ["path", "../up"]),
        ({**_REFERENCE, "path": "/absolute"}, ["path", "/absolute"]),
        ({**_REFERENCE, "noexec": "yes"}, ["noexec", '"true" or "false"']),
        ({**_REFERENCE, "mode": "sometimes"}, ["mode", "eager or lazy"]),
        ({**_REFERENCE, "metadata": "yes"}, ["metadata", '"true" or "false"']),
        ({**_REFERENCE, **_OUT, "metadata": "true"}, ["metadata", "pushed"]),
        ({**_REFERENCE, "writeBackReference": f"reg.example/out@sha256:{'0' * 64}"}, ["writeBackReference", "digest"]),
        ({**_REFERENCE, "writeBackReference": "reg.example/${x}"}, ["${x}"]),
        ({**_REFERENCE, "writeBackInclude": "*.bin"}, ["writeBackReference", "missing"]),
        ({**_REFERENCE, **_OUT, "writeBackExclude": ",".join(["x"] * 101)}, ["writeBackExclude", "100"]),
        ({**_REFERENCE, "include": ",".join(["x"] * 101)}, ["include", "100"]),
        ({**_REFERENCE, "include": "x" * 4097}, ["include", "4096"]),
    ],
)
def test_value_that_cannot_be_served_is_refused_with_its_key_and_a_remedy(
    attributes: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(attributes, {})
    assert all(word in caught.value.message for word in words), caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("key", ["include", "exclude", "writeBackInclude", "writeBackExclude"])
@pytest.mark.parametrize("pattern", ["/secrets", "../up", "a/../b", "a//b", "a/./b", ".", "./", "**/.."])
def test_glob_that_no_name_matches_is_refused(key: str, pattern: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse({**_REFERENCE, "writeBackReference": "reg.example/out:v1", key: f"x, {pattern}"}, {})
    assert key in caught.value.message
    assert f'"{pattern.removeprefix("./").rstrip("/")}" matches no name' in caught.value.message


@pytest.mark.parametrize("pattern", ["./a/", "a/**/b", "**", ".hidden", "..data", "*.txt", "a b"])
def test_glob_that_a_name_may_match_is_taken(pattern: str) -> None:
    assert parse({**_REFERENCE, "exclude": pattern}, {}).selection.exclude


@pytest.mark.parametrize("key", ["Reference", "plainHTTP", "insecure", "csi.storage.k8s.io", "x\ny", "reference "])
def test_unknown_key_is_refused_and_the_known_ones_are_listed(key: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse({**_REFERENCE, key: "true"}, {})
    assert "is not known" in caught.value.message
    assert all(known in caught.value.message for known in CONTRACT)
    assert caught.value.message.isprintable()


def test_keys_of_the_cluster_are_passed_over() -> None:
    keys = (
        "csi.storage.k8s.io/pod.name",
        "csi.storage.k8s.io/anything",
        "storage.kubernetes.io/csiProvisionerIdentity",
    )
    assert parse({**_REFERENCE, **dict.fromkeys(keys, "x")}, {}) == parse(_REFERENCE, {})


def test_names_of_the_old_driver_mean_the_same() -> None:
    old = {
        "oras.artifact.reference": "reg.example/team/model:v1",
        "oras.artifact.layers.mediatype": "application/x.a",
        "oras.options.pullalways": "true",
        "oras.options.plainhttp": "true",
        "oras.options.insecure": "true",
        "oras.options.concurrency": "5",
    }
    new = {**_REFERENCE, "mediaTypes": "application/x.a", "pullPolicy": "Always"}
    assert parse(old, {}) == parse(new, {})


def test_old_scheme_prefix_is_understood() -> None:
    assert parse({"reference": "oras://reg.example/team/model:v1"}, {}) == parse(_REFERENCE, {})


def test_pull_always_of_the_old_driver_is_off_when_false() -> None:
    assert parse({**_REFERENCE, "oras.options.pullalways": "false"}, {}) == parse(_REFERENCE, {})


def test_both_names_of_one_key_are_fine_when_they_agree_and_refused_when_not() -> None:
    assert parse({**_REFERENCE, "oras.artifact.reference": _REFERENCE["reference"]}, {}) == parse(_REFERENCE, {})
    with pytest.raises(InvalidRequestError, match="twice"):
        parse({**_REFERENCE, "oras.artifact.reference": "reg.example/other:v1"}, {})


def test_order_of_keys_changes_nothing() -> None:
    """A protobuf map has none."""
    attributes = {**_REFERENCE, "oras.options.pullalways": "true", "pullPolicy": "Never"}
    outcomes = set()
    for items in itertools.permutations(attributes.items()):
        try:
            outcomes.add(str(parse(dict(items), {})))
        except InvalidRequestError as error:
            outcomes.add(error.message)
    assert len(outcomes) == 1
    assert "twice" in outcomes.pop()


def test_templates_take_their_variables() -> None:
    variables = {"pvc.metadata.name": "data-1", "pvc.metadata.namespace": "team.a"}
    context = {"reference": "reg.example/${pvc.metadata.namespace}/${pvc.metadata.name}:${pvc.metadata.name}"}
    assert str(parse(context, variables).reference) == "reg.example/team.a/data-1:data-1"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("reg.example/${pod.metadata.name}:v1", ["${pod.metadata.name}", "known here: ${pvc.metadata.name}"]),
        ("reg.example/${}:v1", ["${}"]),
        ("reg.example/${pvc.metadata.name", ["reg.example"]),
        ("reg.example/$pvc.metadata.name:v1", ["reg.example"]),
    ],
)
def test_template_that_is_not_known_here_is_refused(reference: str, words: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse({"reference": reference}, {"pvc.metadata.name": "data-1"})
    assert all(word in caught.value.message for word in words), caught.value.message


@pytest.mark.parametrize("value", ["../up", "a/b", "a:b", "a@b", "${pvc.metadata.name}", "A", "", "-a", "a\n"])
def test_template_value_that_would_change_the_reference_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse({"reference": "reg.example/x${pvc.metadata.name}:v1"}, {"pvc.metadata.name": value})


def test_write_back_has_a_reference_with_templates_and_globs() -> None:
    context = {
        **_REFERENCE,
        "writeBackReference": "reg.example/${pod.metadata.name}",
        "writeBackInclude": "*.bin, a/**",
    }
    found = parse(context, {"pod.metadata.name": "step"})
    assert found.write_back
    assert str(found.write_back.reference) == "reg.example/step:latest"
    assert found.write_back.include == ("*.bin", "a/**")
    assert not found.starts_empty
    assert found.read_only().write_back is None


def test_volume_that_starts_empty_has_nothing_to_show_read_only() -> None:
    found = parse(_OUT, {})
    assert found.starts_empty
    with pytest.raises(InvalidRequestError, match="reference"):
        found.read_only()
