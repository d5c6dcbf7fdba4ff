"""What the environment of the person who starts a run says. Secrets stay there: only that they exist is looked at."""

import os
from pathlib import Path


def has_wandb_key() -> bool:
    """An API key in the environment or in the netrc file of the person, where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(errors="replace")
