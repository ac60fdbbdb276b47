"""Demand: how much work is wanted, which the work itself asks when it begins and where bytes arrive."""

from enum import IntEnum

from csi_oras.errors import UnwantedError


class Demand(IntEnum):
    """How much something is wanted; what is not wanted at all never is again."""

    NONE = 0
    BACKGROUND = 1
    FOREGROUND = 2

    def check(self) -> None:
        """Let work go on that is wanted.

        Raises:
            UnwantedError: it is not.
        """
        if self is Demand.NONE:
            raise UnwantedError("pull", "nobody wants it any more", "ask again")
