"""The system calls about processes that Python does not have, each as one function that raises OSError."""

import ctypes
import os
import signal
import struct

_SET_PDEATHSIG, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITIES = 64
"""More than there are: of those that the kernel does not know, there are none to lose."""
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)
"""struct __user_cap_header_struct: version 3, this process."""
_NO_CAPABILITIES = bytes(24)

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def end_with_parent(parent: int) -> None:
    """Have this process killed when the thread that forked it ends; at once, where process `parent` has ended.

    A change of credentials may undo it: make those before.
    """
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def drop_capabilities() -> None:
    """Give up every capability, and whatever could bring one back."""
    _prctl(_SET_NO_NEW_PRIVS, 1)
    for capability in range(_CAPABILITIES):
        try:
            _prctl(_CAPBSET_DROP, capability)
        except OSError:  # no such capability, or we are not even allowed to lose it
            continue
    if _libc.capset(_CAPABILITY_HEADER, _NO_CAPABILITIES):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
