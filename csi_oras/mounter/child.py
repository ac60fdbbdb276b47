"""What a forked process does before it serves a tree: it gives up whatever that does not take.

It keeps its device, its end of the pulse and the standard streams, and no capability. It stays root, in name only: the
driver's socket is for root alone, and has to be found again by whoever takes the driver's place. It ends with the
mounter, for then nobody would begin its successor; and it serves only when no process of an earlier mounter does any
more: two that answer one connection would take each other's requests.
"""

import fcntl
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import structlog

from csi_oras import prctl
from csi_oras.errors import CsiOrasError
from csi_oras.fuse import program
from csi_oras.fuse.program import Settings
from csi_oras.telemetry.logs import logger

_FIRST = 3
"""The first descriptor that is no standard stream."""
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_LESS_DEAR, _LARGEST_OOM_SCORE = 100, 1000
"""Memory is taken from a process, which has a successor, before it is from the mounter, with which all end."""
_FAILED = 1


def run(settings: Settings, pulse: int, mounter: int) -> NoReturn:
    """Serve a tree as a child of process `mounter`, and end; what the caller holds is not to be used any more."""
    code = _FAILED
    try:
        structlog.contextvars.bind_contextvars(tree=settings.tree)
        _become_own(mounter)
        _keep_only(settings.device, pulse)
        _wait_for_predecessor(settings.plan.parent)
        code = program.run(settings, pulse=pulse)
    except CsiOrasError as error:
        logger.error("cannot serve a lazy volume", cause=error.message)
    except BaseException:  # noqa: BLE001 (nothing of the mounter's may go on in this process)
        logger.exception("a bug: a lazy volume cannot be served")
    finally:
        os._exit(code)


def _become_own(mounter: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    prctl.drop_capabilities()
    prctl.end_with_parent(mounter)
    os.chdir("/")
    with suppress(OSError):
        score = min(int(_OOM_SCORE.read_text()) + _LESS_DEAR, _LARGEST_OOM_SCORE)
        _OOM_SCORE.write_text(str(score))


def _keep_only(*kept: int) -> None:
    first = _FIRST
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _wait_for_predecessor(directory: Path) -> None:
    """Lock the tree's directory, until this process ends, however it does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
