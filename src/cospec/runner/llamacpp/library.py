"""llama.cpp, by the low-level API of llama-cpp-python, which is imported here alone."""

import ctypes
import logging
from collections import deque
from functools import cache
from importlib import import_module
from typing import Any

from ...errors import MissingExtra, one_line
from ..backends import HOW_TO_GET, PACKAGE

logger = logging.getLogger(__name__)

# What llama.cpp reported of late that was an error: its functions return no reasons.
_ERRORS: deque[str] = deque(maxlen=4)
# How ggml numbers the levels of its log; CONTINUED goes on with the line before.
_ERROR, _CONTINUED = 4, 5


@cache
def library() -> Any:
    """The module `llama_cpp`, its log led into ours. Raises MissingExtra where it is not installed, or cannot be
    loaded."""
    try:
        llama: Any = import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise MissingExtra(f"llama-cpp-python cannot be imported: {one_line(error)}; {HOW_TO_GET}") from error
        raise MissingExtra(
            f"llama.cpp runs GGUF files by llama-cpp-python, which is not installed: {HOW_TO_GET}"
        ) from None
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # Its shared library is not there, or was built for another machine.
        raise MissingExtra(f"llama-cpp-python cannot be loaded: {one_line(error)}; install it again") from error
    callback = llama.llama_log_callback(_log)
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    # Kept as long as the library may call it.
    llama.cospec_log = callback
    llama.llama_backend_init()
    return llama


def last_errors() -> str:
    """What llama.cpp reported last, behind a colon; "" where it reported nothing. Forgets it."""
    lines = [line for line in _ERRORS if line]
    _ERRORS.clear()
    return f": {'; '.join(lines)}" if lines else ""


def _log(level: int, text: bytes, _: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if line and level == _ERROR:
        _ERRORS.append(line)
    elif line and level == _CONTINUED and _ERRORS:
        _ERRORS[-1] += f" {line}"
    if line:
        logger.debug("%s", line)
