"""A user's function by its dotted name: `package.module:function`, or `package.module.function`.

Found in the process that uses it. config names it, the launcher tries it, ranks call it."""

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from orchestrator.core.errors import ConfigError

CODE_FOLDER = "LONGHAUL_CODE"  # variable of the environment; processes hand it on to those they start
_DOTTED = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*)[:.](?P<function>[^\W\d]\w*)")


def is_dotted(name: str) -> bool:
    """Whether this looks like a function's dotted name, and not like a name in a table."""
    return "." in name or ":" in name


def find_function(name: str, key: str) -> Callable[..., Any]:
    """The function of this name, which the config gives under `key`."""
    parts = _DOTTED.fullmatch(name)
    if parts is None or parts["module"] == "__main__":
        raise ConfigError(
            f"'{name}' is no function that other processes can import",
            where=key,
            remedy="name one at the top of a module, as package.module:function; a lambda will not do",
        )
    _look_in_code_folder()
    try:
        found = getattr(importlib.import_module(parts["module"]), parts["function"])
    except Exception as error:  # importing runs the user's code
        raise ConfigError(
            f"'{name}' cannot be imported: {type(error).__name__}: {error}",
            where=key,
            remedy="correct the name; `code` in the config names the folder where modules of your own lie",
        ) from error
    if not callable(found):
        raise ConfigError(f"'{name}' is a {type(found).__name__}, not a function", where=key, remedy="name a function")
    return found  # type: ignore[no-any-return]


def look_for_code_in(folder: str | None) -> None:
    """From now on this process, and those it starts, find modules in `folder` that are installed nowhere."""
    if folder is not None:
        os.environ[CODE_FOLDER] = folder


def _look_in_code_folder() -> None:
    """At the end of the path, so that no file there takes the place of an installed module."""
    folder = os.environ.get(CODE_FOLDER)
    if folder and folder not in sys.path:
        sys.path.append(folder)
