"""Which language a text is in, by a fastText model that the user gives. fasttext is imported when it is asked first."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from orchestrator.core.errors import ConfigError
from orchestrator.prepare.clean.sample import Share, Unfit
from orchestrator.prepare.clean.text import Text

_LABEL = "__label__"


def language(
    text: Text, model: str, languages: Annotated[Sequence[str], Field(min_length=1)], threshold: Share = 0.65
) -> Unfit | None:
    """Stays if the model gives one of `languages` more than `threshold`; they are named as in the model's labels."""
    labels, scores = _load_model(model).predict(text.replace("\n", " "), k=-1)
    by_language = {label.removeprefix(_LABEL): float(score) for label, score in zip(labels, scores, strict=True)}
    if any(by_language.get(one, 0.0) > threshold for one in languages):
        return None
    if not by_language:
        return Unfit(f"no language is recognised, so it is not {' or '.join(languages)}")
    likely = max(by_language, key=by_language.__getitem__)
    asked = ", ".join(f"{one} {by_language.get(one, 0.0):.2f}" for one in languages)
    return Unfit(f"most likely {likely} {by_language[likely]:.2f}; {asked}, not above {threshold:g}")


@cache
def _load_model(path: str) -> Any:
    """Once a process."""
    try:
        fasttext = import_module("fasttext")
    except ImportError as error:
        raise ConfigError(
            f"the rule language needs the package fasttext: {error}",
            where="prepare.clean",
            remedy="pip install fasttext-numpy2-wheel, on every machine that prepares",
        ) from error
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"there is no model {file}",
            where="prepare.clean",
            remedy="give the path of a fastText model, such as lid.176.bin, that every machine can read",
        )
    return fasttext.load_model(str(file))
