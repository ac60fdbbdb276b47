"""Each leaf of the taxonomy has a row in the table of codes, and the table has no other."""

from collections.abc import Iterator

import grpc
import pytest

from csi_oras import errors
from csi_oras.csi import status

Code = grpc.StatusCode


def leaves(kind: type[errors.CsiOrasError]) -> Iterator[type[errors.CsiOrasError]]:
    """Every error that is raised: classes without subclasses, and those that are both."""
    below = kind.__subclasses__()
    if not below or kind in status.CODES:
        yield kind
    for child in below:
        yield from leaves(child)


@pytest.mark.parametrize("kind", sorted(set(leaves(errors.CsiOrasError)), key=str), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code(kind: type[errors.CsiOrasError]) -> None:
    code = status.code_of(kind("subject", "cause"))
    assert code not in (Code.OK, Code.UNKNOWN)
    if issubclass(kind, errors.UnacceptableError):  # never better by itself: no code that promises a retry
        assert code in (Code.DATA_LOSS, Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED)


def test_codes_name_no_error_that_does_not_exist() -> None:
    assert set(status.CODES) == set(leaves(errors.CsiOrasError))


@pytest.mark.parametrize(
    ("code", "name"),
    [(Code.OK, "OK"), (Code.DEADLINE_EXCEEDED, "DeadlineExceeded"), (Code.NOT_FOUND, "NotFound")],
)
def test_codes_are_spelt_as_go_does_in_metrics(code: grpc.StatusCode, name: str) -> None:
    assert status.go_name(code) == name
