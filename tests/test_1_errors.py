"""Messages of errors: short enough for an event on a pod, whatever they quote."""

import pytest

from csi_oras.errors import MESSAGE_LIMIT, HostileContentError


@pytest.mark.parametrize("text", ["x", "é", "模", "😀", "\x1b", "\u202e", "\ud800"])
def test_message_fits_an_event_in_bytes(text: str) -> None:
    message = HostileContentError(f"reg.example/{text * 600}:v1", text * 600, text * 600).message
    assert MESSAGE_LIMIT - 6 <= len(message.encode()) <= MESSAGE_LIMIT
    assert message.endswith("…")
    assert message.isprintable()


def test_message_that_fits_is_whole() -> None:
    assert HostileContentError("a", "is é", "push it").message == "a: is é; push it"
