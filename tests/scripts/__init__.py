"""Scripts that run in processes of their own: `python -m tests.scripts.<name>`.

A process of several ranks must not end as Python usually does. One of gloo's threads may still free a tensor then, for
which it needs an interpreter that is being taken down, and so it aborts the whole process ("terminate called without an
active exception"). `destroy_process_group` ends these threads only if nobody else holds the group, as a DDP module
does: https://github.com/pytorch/pytorch/pull/179291. Such processes therefore end by `os._exit`, which takes nothing
down.
"""

import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn


def leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(main: Callable[..., None], *arguments: Any) -> NoReturn:
    """Call `main` and end the process: with 0, with 1 after an exception, or with the code of `sys.exit`."""
    try:
        main(*arguments)
    except SystemExit as exit:
        leave(exit.code if isinstance(exit.code, int) else exit.code is not None)
    except BaseException:
        traceback.print_exc()
        leave(1)
    leave(0)


_bootstrap = BaseProcess._bootstrap  # type: ignore[attr-defined]


def _bootstrap_and_leave(process: BaseProcess, *args: Any, **kwargs: Any) -> NoReturn:
    """What a spawned process does, which imports the script and with it this package."""
    code = _bootstrap(process, *args, **kwargs)
    util._exit_function()  # type: ignore[attr-defined]  # since Python 3.13, `atexit` calls it, and not `_bootstrap`
    leave(code)


BaseProcess._bootstrap = _bootstrap_and_leave  # type: ignore[attr-defined]
