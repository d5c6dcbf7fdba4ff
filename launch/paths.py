"""The paths of a config. Ray's processes run in other folders and on other machines: what is relative in a config must
be written out before it reaches them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.config.preparing import CleanStep
from orchestrator.config.run import RunConfig


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Relative paths start at cluster.shared, or where the command was given."""
    start = Path(config.cluster.shared).expanduser() if config.cluster.shared else Path()
    return _with_paths(config, lambda _, path: str((start / Path(path).expanduser()).absolute()))


def relative_keys(config: RunConfig) -> Iterator[str]:
    """Keys whose paths are not written out, with their values."""
    found: list[str] = []

    def note(key: str, path: str) -> str:
        if not Path(path).is_absolute():
            found.append(f"{key}={path}")
        return path

    _with_paths(config, note)
    yield from found


def _with_paths(config: RunConfig, change: Callable[[str, str], str]) -> RunConfig:
    """Every path of the config, by key, put through `change`; addresses of stores stay as they are."""

    def changed(key: str, path: str) -> str:
        return path if "://" in path or path.startswith("pipe:") else change(key, path)

    data, model = config.data, config.model
    sources = [
        source.model_copy(update={"path": changed(f"data.train.{i}.path", source.path), "name": source.label})
        for i, source in enumerate(data.train)
    ]
    tokens = config.prepare.tokens
    if tokens is not None and tokens.tokenizer is not None:
        tokens = tokens.model_copy(update={"tokenizer": changed("prepare.tokens.tokenizer", tokens.tokenizer)})
    decontaminate = config.prepare.decontaminate
    if decontaminate is not None:
        files = [changed(f"prepare.decontaminate.files.{i}", file) for i, file in enumerate(decontaminate.files)]
        decontaminate = decontaminate.model_copy(update={"files": files})
    clean = [_with_model(step, f"prepare.clean.{i}.args.model", changed) for i, step in enumerate(config.prepare.clean)]
    cache = data.cache
    if cache.folder is not None:
        cache = cache.model_copy(update={"folder": changed("data.cache.folder", cache.folder)})
    if model.pretrained is not None:
        model = model.model_copy(update={"pretrained": changed("model.pretrained", model.pretrained)})
    if model.weights is not None:
        model = model.model_copy(update={"weights": changed("model.weights", model.weights)})
    return config.model_copy(
        update={
            "code": None if config.code is None else changed("code", config.code),
            "root": changed("root", config.root),
            "data": data.model_copy(update={"train": sources, "work": changed("data.work", data.work), "cache": cache}),
            "prepare": config.prepare.model_copy(
                update={"clean": clean, "tokens": tokens, "decontaminate": decontaminate}
            ),
            "model": model,
        }
    )


def _with_model(step: CleanStep, key: str, change: Callable[[str, str], str]) -> CleanStep:
    """Of the steps that Longhaul knows, one names a file."""
    model = step.args.get("model")
    if step.name != "language" or not isinstance(model, str):
        return step
    return step.model_copy(update={"args": {**step.args, "model": change(key, model)}})
