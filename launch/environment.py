"""What the environment of the person who starts a run says. Secrets stay there: only that they exist is looked at."""

import netrc
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.tracking.wandb import default_host


def has_wandb_key(host: Callable[[], str] = default_host) -> bool:
    """An API key in the environment, or in the person's netrc file, where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    try:
        known = netrc.netrc(path).hosts
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
        return False  # W&B cannot read it either
    return urlsplit(host()).hostname in known
