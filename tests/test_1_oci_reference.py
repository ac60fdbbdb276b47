"""References: the distribution grammar, Docker Hub's short names, and one spelling for each registry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_oras.errors import InvalidRequestError
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Reference
from tests.support.planted import planted

D = "sha256:" + "0123456789abcdef" * 4
D512 = "sha512:" + "0123456789abcdef" * 8

TAKEN = {
    "ghcr.io/acme/model:v1": "ghcr.io/acme/model:v1",
    "ghcr.io/acme/model": "ghcr.io/acme/model:latest",
    f"ghcr.io/acme/model@{D}": f"ghcr.io/acme/model@{D}",
    f"ghcr.io/acme/model:v1@{D}": f"ghcr.io/acme/model:v1@{D}",
    f"ghcr.io/acme/model@{D512}": f"ghcr.io/acme/model@{D512}",
    # Docker Hub
    "alpine": "docker.io/library/alpine:latest",
    "alpine:3.20": "docker.io/library/alpine:3.20",
    f"alpine@{D}": f"docker.io/library/alpine@{D}",
    "acme/x": "docker.io/acme/x:latest",
    "docker.io/alpine": "docker.io/library/alpine:latest",
    "index.docker.io/alpine": "docker.io/library/alpine:latest",
    "registry-1.docker.io/acme/x:1": "docker.io/acme/x:1",
    "index.docker.io:443/alpine": "docker.io/library/alpine:latest",
    "Docker.IO/alpine": "docker.io/library/alpine:latest",
    "library": "docker.io/library/library:latest",
    "docker.io:5000/alpine": "docker.io:5000/alpine:latest",
    # hosts and ports
    "localhost/x": "localhost/x:latest",
    "localhost:5000/x:1": "localhost:5000/x:1",
    "localhost": "docker.io/library/localhost:latest",
    "host:5000/x": "host:5000/x:latest",
    "host:5000": "docker.io/library/host:5000",  # without a slash it is a tag, as in distribution
    "host.example/x": "host.example/x:latest",
    "host.example:tag": "docker.io/library/host.example:tag",
    "10.0.0.1:5000/x": "10.0.0.1:5000/x:latest",
    "[::1]:5000/x": "[::1]:5000/x:latest",
    "[2001:db8::1]/x:1": "[2001:db8::1]/x:1",
    f"[::1]:5000/a/b:1@{D}": f"[::1]:5000/a/b:1@{D}",
    "xn--mller-kva.example/x": "xn--mller-kva.example/x:latest",
    "my-registry.example/x": "my-registry.example/x:latest",
    # one spelling for each registry, or a rule on one of them could be walked around
    "GHCR.io/acme/x": "ghcr.io/acme/x:latest",
    "ghcr.io:443/acme/x": "ghcr.io/acme/x:latest",
    "ghcr.io:0443/acme/x": "ghcr.io/acme/x:latest",
    "host.example:05000/x": "host.example:5000/x:latest",
    "[0:0:0:0:0:0:0:1]:5000/x": "[::1]:5000/x:latest",
    "[2001:DB8::0001]/x": "[2001:db8::1]/x:latest",
    "HOST/up": "host:443/up:latest",  # not host/up, which would be Docker Hub's
    "host:443/up": "host:443/up:latest",
    "Host:5000/up": "host:5000/up:latest",
    # repositories and tags
    "ghcr.io/a/b/c/d/e": "ghcr.io/a/b/c/d/e:latest",
    "ghcr.io/a.b_c__d-e--f": "ghcr.io/a.b_c__d-e--f:latest",
    "ghcr.io/1/2:3": "ghcr.io/1/2:3",
    "ghcr.io/x:_under.Score-": "ghcr.io/x:_under.Score-",
    "ghcr.io/x:" + "t" * 128: "ghcr.io/x:" + "t" * 128,
    "ghcr.io/" + "r" * 255: "ghcr.io/" + "r" * 255 + ":latest",
}

REFUSED = {
    "nothing": "",
    "space": " ",
    "space first": " ghcr.io/x",
    "newline last": "ghcr.io/x\n",
    "newline behind the tag": "ghcr.io/x:v1\n",
    "CR LF and a header": "ghcr.io/x\r\nHost: evil",
    "NUL": "ghcr.io/x\0",
    "scheme": "http://ghcr.io/x",
    "secure scheme": "https://ghcr.io/x",
    "scheme of the old driver": "oras://ghcr.io/x",
    "user and password": "user:pass@ghcr.io/x",
    "user": "user@ghcr.io/x",
    "dotdot": "ghcr.io/../x",
    "dotdot first": "../x",
    "dotdot last": "ghcr.io/x/..",
    "dot": "ghcr.io/./x",
    "slash first": "/ghcr.io/x",
    "slash last": "ghcr.io/x/",
    "two slashes": "ghcr.io//x",
    "host alone": "ghcr.io/",
    "slash alone": "/",
    "backslash": "ghcr.io\\x",
    "query": "ghcr.io/x?y",
    "fragment": "ghcr.io/x#y",
    "percent": "ghcr.io/%2e%2e/x",
    "upper-case repository": "HOST/Up",
    "upper-case repository of the hub": "Alpine",
    "option": "-flag",
    "option as a repository": "ghcr.io/-flag",
    "separator first": "ghcr.io/.x",
    "separator last": "ghcr.io/x.",
    "two dots": "ghcr.io/a..b",
    "three underscores": "ghcr.io/a___b",
    "repository of 256 characters": "ghcr.io/" + "r" * 256,
    "much too long": "ghcr.io/" + "a/" * 10_000,
    "tag of 129 characters": "ghcr.io/x:" + "t" * 129,
    "empty tag": "ghcr.io/x:",
    "tag with a dot first": "ghcr.io/x:.v1",
    "tag with a hyphen first": "ghcr.io/x:-v1",
    "tag with a plus": "ghcr.io/x:1+2",
    "two tags": "ghcr.io/x:a:b",
    "host and port without a repository": "ghcr.io:5000",
    "address and port without a repository": "10.0.0.1:5000",
    "port 0": "ghcr.io:0/x",
    "port too high": "ghcr.io:65536/x",
    "port of six digits": "ghcr.io:100000/x",
    "empty port": "ghcr.io:/x",
    "port that is none": "ghcr.io:http/x",
    "two ports": "ghcr.io:1:2/x",
    "host with an empty label": "ghcr..io/x",
    "host with a dot last": "ghcr.io./x",
    "host with a dot first": ".ghcr.io/x",
    "host with a hyphen first": "-ghcr.io/x",
    "host with an underscore": "my_host.example/x",
    "label of 64 characters": "a" * 64 + ".example/x",
    "host in Unicode": "m\u00fcller.example/x",
    "host in full width": "ghcr\uff0eio/x",
    "dotless i": "gh\u0131.io/x",
    "repository in Unicode": "ghcr.io/m\u00fcller",
    "IPv6 without brackets": "::1/x",
    "IPv6 unclosed": "[::1/x",
    "IPv6 that is none": "[:::]/x",
    "IPv6 with a zone": "[fe80::1%25eth0]/x",
    "IPv6 of an IPv4 address": "[::ffff:7f00:1]/x",
    "IPv6 with a dotted part": "[::ffff:127.0.0.1]/x",
    "IPv6 without a repository": "[::1]:5000",
    "brackets around a name": "[ghcr.io]/x",
    "empty digest": "ghcr.io/x@",
    "two digests": f"ghcr.io/x@{D}@{D}",
    "digest alone": f"@{D}",
    "short digest": "ghcr.io/x@sha256:abc",
    "upper-case digest": f"ghcr.io/x@{D.upper()}",
    "digest of md5": "ghcr.io/x@md5:" + "0" * 32,
    "digest with traversal": "ghcr.io/x@sha256:../../x",
    "tag behind the digest": f"ghcr.io/x@{D}:v1",
    "template that nobody filled in": "ghcr.io/${pod.metadata.name}",
}


@pytest.mark.parametrize(("text", "expected"), TAKEN.items())
def test_reference_is_read_and_written_in_its_one_spelling(text: str, expected: str) -> None:
    assert str(Reference.parse(text)) == expected


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_reference_that_is_none_is_refused_with_a_printable_message(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Reference.parse(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500


REMEDIES = {
    "https://ghcr.io/x": "leave out everything up to ://",
    "ghcr.io:5000": "no repository",
    "HOST/Up": "use lower-case letters",
}


@pytest.mark.parametrize(("text", "cause"), REMEDIES.items())
def test_reference_that_is_none_says_what_to_do(text: str, cause: str) -> None:
    with pytest.raises(InvalidRequestError, match=cause):
        Reference.parse(text)


def test_reference_identifier_is_the_digest_where_there_is_one() -> None:
    reference = Reference.parse("ghcr.io/x:v1")
    assert reference.identifier == "v1"
    pinned = reference.pinned(Digest.parse(D))
    assert pinned.identifier == D
    assert str(pinned) == f"ghcr.io/x:v1@{D}"


HOSTS = st.from_regex(
    r"([a-zA-Z0-9-]{1,5}\.){0,2}[a-zA-Z0-9]{1,5}(:\d{1,6})?|\[[0-9a-f:]{2,10}\](:\d{1,4})?", fullmatch=True
)
PATHS = st.from_regex(r"[a-z0-9]{1,4}([._/-]{1,2}[a-z0-9]{1,4}){0,3}", fullmatch=True)
TAGS = st.from_regex(r"(:[a-zA-Z0-9_.-]{1,6})?(@" + D + ")?", fullmatch=True)


@given(st.builds(lambda *parts: "".join(parts), HOSTS, st.just("/"), PATHS, TAGS) | st.text())
def test_reference_written_and_read_again_is_the_same(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidRequestError:
        return
    assert Reference.parse(str(reference)) == reference
    assert str(reference).isascii()
    assert not set(str(reference)) & set(" \\?#%\r\n\0")
    assert ".." not in str(reference)


@pytest.mark.parametrize(
    "text",
    [
        "{}@ghcr.io/x:v1",
        "alice:{}@ghcr.io/x:v1",
        "alice:{}@localhost:5000/x",
        "alice:{}@localhost:5000",
        "alice:{}@ubuntu",
        "https://alice:{}@ghcr.io/x@v1",
        "https://alice:a/b@{}@ghcr.io/x",
        "a:b@c:{}@ghcr.io/x",
        "alice:{}@ghcr.io/" + "x" * 1000,
    ],
)
def test_reference_with_a_user_is_refused_without_his_password(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"\*\*\*@.*is not a digest") as caught:
        Reference.parse(text.format(planted("password")))
    assert planted("password") not in caught.value.message


@pytest.mark.parametrize("text", ["ghcr.io/x:v1@md5:abc", "ghcr.io/x@sha256:ABC", "ghcr.io/x@sha256:"])
def test_reference_with_a_digest_that_is_none_is_repeated(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=f'"{text}": digest'):
        Reference.parse(text)
