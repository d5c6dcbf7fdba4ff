"""How many numbers a model of ours takes and gives, from the config alone. For build.py and the tasks."""

from orchestrator.config.data import CategorySection
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError


def num_inputs(config: RunConfig, stated: int | None) -> int:
    """Columns of the table, each category spread over one for each of its values; else what the model states."""
    if config.data.table is not None:
        columns = config.data.table.columns
        return sum(len(column.values) if isinstance(column, CategorySection) else 1 for column in columns)
    if stated is None:
        raise ConfigError("needed where there is no data.table: numbers of a sample", where="model inputs")
    return stated


def num_outputs(config: RunConfig, vocab_size: int | None) -> int:
    """One for each class or entry of the vocabulary; one for a number, and for two classes told apart by one."""
    task = config.task
    if task.name == "causal_lm":
        assert vocab_size is not None
        return vocab_size
    if task.loss.name == "binary_cross_entropy":
        return 1
    return config.num_classes or 1
