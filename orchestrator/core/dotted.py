"""A user's function by its dotted name: `package.module:function`, or `package.module.function`.

Found in the process that uses it. config names it, the launcher tries it, ranks call it."""

import importlib
import re
from collections.abc import Callable
from typing import Any

from orchestrator.core.errors import ConfigError

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
    try:
        found = getattr(importlib.import_module(parts["module"]), parts["function"])
    except Exception as error:  # importing runs the user's code
        raise ConfigError(
            f"'{name}' cannot be imported: {type(error).__name__}: {error}",
            where=key,
            remedy="correct the name, or put the module's folder on PYTHONPATH on every machine",
        ) from error
    if not callable(found):
        raise ConfigError(f"'{name}' is a {type(found).__name__}, not a function", where=key, remedy="name a function")
    return found  # type: ignore[no-any-return]
