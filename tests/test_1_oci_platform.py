import pytest

from csi_oras.errors import InvalidRequestError
from csi_oras.oci.platform import Platform


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm/v7", "windows/amd64"])
def test_platform_is_written_as_it_was_read(text: str) -> None:
    assert str(Platform.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", "linux/amd64\n", "a" * 70 + "/b"]
)
def test_platform_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="os/arch"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("loongarch64", "linux/loongarch64"),
    ],
)
def test_platform_of_a_machine_is_in_the_spelling_of_go(machine: str, expected: str) -> None:
    assert str(Platform.of_machine(machine)) == expected
