"""Parameters by patterns of their names, as a config gives them. For freeze.py, and for the optimizer's groups."""

from collections.abc import Collection
from difflib import get_close_matches
from fnmatch import fnmatchcase

from orchestrator.core.errors import ConfigError


def find_matching(pattern: str, names: Collection[str], key: str) -> list[str]:
    """Those of `names` that the pattern, given under the config's `key`, is about; at least one."""
    found = [name for name in names if fnmatchcase(name, pattern)]
    if found:
        return found
    near = get_close_matches(pattern.replace("*", ""), list(names), n=1, cutoff=0.3)
    raise ConfigError(
        f"'{pattern}' matches no parameter of the model" + (f"; did you mean '{near[0]}'?" if near else ""),
        where=key,
        remedy=f"patterns are held against whole names, like {', '.join(list(names)[:3])}; * stands for any characters",
    )
