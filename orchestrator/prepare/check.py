"""What is wrong with the prepare section, found in the launcher before anything starts."""

from collections.abc import Iterator

from orchestrator.config.problems import Problem, nearest, shown
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.prepare.rules import Rules


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
        yield Problem("prepare.decontaminate.files", f"{error.where}: {error.message}; {error.remedy}")
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
    held_out = split.validation or split.folds or split.test
    if decontaminate and decontaminate.similarity is not None and not held_out:
        yield Problem(
            "prepare.decontaminate.similarity", "there is nothing to compare with: set data.split, or this to null"
        )


def _check_sources(config: RunConfig) -> Iterator[Problem]:
    known = [source.label for source in config.data.train]
    for i, name in enumerate(config.prepare.dedup.prefer if config.prepare.dedup else []):
        if name not in known:
            yield Problem(f"prepare.dedup.prefer.{i}", f"no source has this name{nearest(name, known)}", shown(name))
