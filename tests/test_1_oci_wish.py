"""Wishes: what is one, what is none, and which tags a glob picks."""

import pytest

from csi_oras.errors import InvalidRequestError
from csi_oras.oci.wish import Wish, newest

DIGEST = f"sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ghcr.io/acme/llama", "ghcr.io/acme/llama:latest"),
        ("ghcr.io/acme/llama:v3", "ghcr.io/acme/llama:v3"),
        (f"ghcr.io/acme/llama@{DIGEST}", f"ghcr.io/acme/llama@{DIGEST}"),
        (f"ghcr.io/acme/llama:v3@{DIGEST}", f"ghcr.io/acme/llama:v3@{DIGEST}"),
        ("ghcr.io/acme/llama:v*", "ghcr.io/acme/llama:v*"),
        ("GHCR.io:443/acme/llama:v?.*", "ghcr.io/acme/llama:v?.*"),
        ("localhost:5000/llama:*", "localhost:5000/llama:*"),
        ("busybox:*-musl", "docker.io/library/busybox:*-musl"),
    ],
)
def test_wish_is_read_and_said_in_one_spelling(text: str, said: str) -> None:
    assert str(Wish.parse(text)) == said
    assert Wish.parse(said) == Wish.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "ghcr.io/acme/*",
        "ghcr.io/acme/*:v1",
        "ghcr.io/**/llama:v*",
        f"ghcr.io/acme/llama:v*@{DIGEST}",
        "ghcr.io/acme/llama:v1:v*",
        "ghcr.io:5*/llama",
        "ghcr.io/acme/llama:v[0-9]*",
        "ghcr.io/acme/llama:v/*",
        f"ghcr.io/acme/llama:{'v' * 128}*",
        "ghcr.io/acme/Llama:v*",
        ":v*",
        "*",
        "",
        "ghcr.io/acme/llama:v1\n",
    ],
)
def test_what_is_no_wish_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        Wish.parse(text)


def test_glob_picks_tags_and_not_what_signatures_are_kept_under() -> None:
    wish = Wish.parse("ghcr.io/acme/llama:*")
    tags = ["v1", "latest", f"sha256-{'ab' * 32}", f"sha256-{'ab' * 32}.sig", "sha256-of-it"]
    assert [tag for tag in tags if wish.picks(tag)] == ["v1", "latest", "sha256-of-it"]


def test_glob_picks_only_what_it_matches() -> None:
    wish = Wish.parse("ghcr.io/acme/llama:v?.*")
    assert [tag for tag in ("v1.0", "v10.0", "v1", "1.0", "xv1.0") if wish.picks(tag)] == ["v1.0"]


def test_newest_tags_are_those_with_the_highest_numbers() -> None:
    assert newest(["v9", "v10", "v2", "v10.1", "v010", "v9"], 4) == ["v10.1", "v10", "v010", "v9"]


def test_newest_of_a_number_without_end_costs_no_time() -> None:
    assert newest(["1" * 128, "2" * 128, "9"], 2) == ["2" * 128, "1" * 128]
