"""What is wrong with the prepare section, found in the launcher before anything starts."""

from collections.abc import Iterator, Sequence

from orchestrator.config.problems import Problem, nearest, shown
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.prepare.rules import Rules
from orchestrator.storage.stores import StoreSettings, open_stores


def check_preparing(config: RunConfig) -> list[Problem]:
    """Imports the users' functions that prepare.clean names, and reads the files of prepare.decontaminate."""
    problems = [*_check_compared(config), *_check_sources(config)]
    if config.prepare.clean:
        from orchestrator.prepare.clean.rules import check_clean  # compiled code, which not everybody needs

        fed_as_text = config.packed_len is not None
        problems += check_clean(config.prepare.clean, None if fed_as_text else config.data.read_fields.keys())
    return problems


def _check_compared(config: RunConfig) -> Iterator[Problem]:
    prepare = config.prepare
    try:
        rules = Rules.of(config)
    except BadInput as error:
        key = error.where if error.where.startswith("prepare.clean") else "prepare.decontaminate.files"
        yield Problem(key, f"{error.where}: {error.message}; {error.remedy}")
        return
    wants_text = rules.near is not None or bool(prepare.decontaminate and prepare.decontaminate.files)
    if wants_text and not rules.compared_member:
        key = "prepare.decontaminate" if prepare.decontaminate else "prepare.dedup.near"
        yield Problem(key, "compares texts, and no text is named: set prepare.compare to the suffix of a member")
    if rules.near is not None:
        try:
            from orchestrator.prepare.near.bands import choose_bands

            choose_bands(rules.near.threshold, rules.near.recall)
        except BadInput as error:
            yield Problem("prepare.dedup.near", f"{error.message}; {error.remedy}")
    split, decontaminate = config.data.split, prepare.decontaminate
    if decontaminate and decontaminate.similarity is not None and not (split.validation or split.test or split.folds):
        yield from _check_outside(config, decontaminate.files)


def _check_outside(config: RunConfig, files: Sequence[str]) -> Iterator[Problem]:
    """Without a split it must be these that are compared with."""
    from orchestrator.prepare.judging.outside import list_files

    if not any(file.holds_documents for file in list_files(files, open_stores(StoreSettings.of(config.data)))):
        yield Problem(
            "prepare.decontaminate.similarity",
            "there is nothing to compare with: set data.split, give .jsonl or .tar files, or set this to null",
        )


def _check_sources(config: RunConfig) -> Iterator[Problem]:
    known = [source.label for source in config.data.train]
    for i, name in enumerate(config.prepare.dedup.prefer if config.prepare.dedup else []):
        if name not in known:
            yield Problem(f"prepare.dedup.prefer.{i}", f"no source has this name{nearest(name, known)}", shown(name))
