"""What is wrong with the task: what it is fed, its classes, its loss. Called by run.py for the whole config."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from orchestrator.config.data import CategorySection, TableSection
from orchestrator.config.problems import Problem, nearest, shown
from orchestrator.config.task import TASK_NAMES, LossSection

if TYPE_CHECKING:
    from orchestrator.config.run import RunConfig

CLASSIFYING = ("text_classification", "image_classification", "tabular_classification")
TABULAR = ("tabular_classification", "tabular_regression")
LOSSES = {"tabular_regression": ("mse", "mae", "huber"), "causal_lm": ("cross_entropy",)} | dict.fromkeys(
    CLASSIFYING, ("cross_entropy", "binary_cross_entropy")
)
PLAIN = LossSection()


def check_task(config: "RunConfig") -> Iterator[Problem]:
    yield from _check_causal_lm(config) if config.task.name == "causal_lm" else _check_samples(config)
    yield from _check_loss(config)
    stated = (config.model.transformers or {}).get("num_labels")
    if config.task.classes is not None and stated not in (None, config.task.classes):
        yield Problem("task.classes", f"is {config.task.classes}, and model.transformers.num_labels is {stated}")
    if config.data.table is not None:
        yield from _check_table(config, config.data.table)
    yield from _check_pictures(config)


def _check_pictures(config: "RunConfig") -> Iterator[Problem]:
    """A task of the user's own may feed pictures too."""
    if config.task.name not in TASK_NAMES or config.task.name == "image_classification":
        return
    for key in ("augment", "mixup"):
        if getattr(config.data, key):
            yield Problem(f"data.{key}", f"changes pictures, and {config.task.name} has none: leave it out")


def _check_causal_lm(config: "RunConfig") -> Iterator[Problem]:
    if config.prepare.tokens is None:
        yield Problem("prepare.tokens", "causal_lm needs it: set prepare.tokens.train_bpe or prepare.tokens.tokenizer")
    for key in ("fields", "table"):
        if getattr(config.data, key) is not None:
            yield Problem(f"data.{key}", f"causal_lm reads tokens, not {key}: leave it out")


def _check_samples(config: "RunConfig") -> Iterator[Problem]:
    """Tasks that are fed samples as they are: fields, or rows of a table."""
    name, data, tokens = config.task.name, config.data, config.prepare.tokens
    if name in TABULAR and data.table is None:
        yield Problem("data.table", f"{name} needs it: the columns that are learned from, and the target")
    elif data.table is not None and data.fields is not None:
        yield Problem("data.fields", "data.table says what is read of every sample: leave it out")
    elif data.table is not None and data.transforms:
        yield Problem("data.transforms", "they change data.fields, and these samples are rows of data.table")
    elif data.table is not None and name in ("text_classification", "image_classification"):
        yield Problem("data.table", f"{name} reads data.fields: leave it out")
    elif data.fields is None and data.table is None:
        yield Problem("data.fields", f"{name} needs it: what to read of every sample")
    if name == "text_classification" and tokens is None:
        yield Problem("prepare.tokens", f"{name} needs it: set prepare.tokens.train_bpe or prepare.tokens.tokenizer")
    elif tokens is not None:
        yield from _check_tokens(config, tokens.text_member)
    if config.train.tokens is not None:
        yield Problem("train.tokens", f"{name} has no tokens: state train.epochs or train.steps")
    for i, phase in enumerate(data.phases):
        if phase.seq_len is not None:
            yield Problem(f"data.phases.{i}.seq_len", f"{name} has no sequences: leave it out")


def _check_tokens(config: "RunConfig", member: str) -> Iterator[Problem]:
    """The field `text` becomes tokens, of tasks that read texts."""
    name, text = config.task.name, (config.data.fields or {}).get("text")
    if name in (*TABULAR, "image_classification"):
        yield Problem("prepare.tokens", f"{name} reads no tokens: leave it out")
    elif text is None:
        yield Problem("prepare.tokens", "the field `text` becomes tokens, and data.fields has none: add it")
    elif member.lower() not in text.members:
        read = " or ".join(f".{suffix}" for suffix in text.members)
        yield Problem(
            "prepare.tokens.text_member", f"data.fields.text reads {read}: name the same member", shown(member)
        )


def _check_loss(config: "RunConfig") -> Iterator[Problem]:
    task, loss, classes = config.task, config.task.loss, config.num_classes
    known = LOSSES.get(task.name)
    if task.step is not None and loss != PLAIN:
        yield Problem("task.loss", "task.step computes its own loss: leave it out")
    elif known is not None and loss.name not in ("auto", *known):
        yield Problem("task.loss.name", f"{task.name} has {' or '.join(known)}{nearest(loss.name, known)}", loss.name)
    if loss.name == "binary_cross_entropy" and task.name in CLASSIFYING and classes != 2:
        yield Problem("task.loss.name", "has one output, for two classes: set task.classes to 2, or cross_entropy")
    if loss.label_smoothing and (task.name not in CLASSIFYING or loss.name == "binary_cross_entropy"):
        yield Problem("task.loss.label_smoothing", "is for cross_entropy over classes: leave it out")
    if loss.delta != PLAIN.delta and loss.name != "huber":
        yield Problem("task.loss.delta", "is for huber: leave it out", shown(loss.delta))
    if loss.class_weights is not None:
        yield from _check_class_weights(config, loss.class_weights)


def _check_class_weights(config: "RunConfig", weights: list[float] | str) -> Iterator[Problem]:
    key, classes = "task.loss.class_weights", config.num_classes
    if config.task.name not in CLASSIFYING:
        yield Problem(key, f"{config.task.name} has no classes: leave it out")
    elif isinstance(weights, list) and classes is not None and len(weights) != classes:
        yield Problem(key, f"has {len(weights)} weights for {classes} classes")
    if weights == "balanced" and classes is None:
        yield Problem("task.classes", "must be known to balance classes: set it")
    if weights == "balanced" and config.prepare.mode == "ahead":
        yield Problem(
            key,
            "how often each class is there shows when all is prepared, too late for prepare.mode ahead: "
            "state the weights, or take prepare.mode first",
            "balanced",
        )


def _check_table(config: "RunConfig", table: TableSection) -> Iterator[Problem]:
    names, key = [name_column(column) for column in table.columns], "data.table"
    for name in _repeated(names):
        yield Problem(f"{key}.columns", f"has '{name}' twice")
    if table.target in names:
        yield Problem(f"{key}.target", "is one of data.table.columns: nothing would be left to learn", table.target)
    for i, column in enumerate(table.columns):
        for value in _repeated(column.values) if isinstance(column, CategorySection) else ():
            yield Problem(f"{key}.columns.{i}.values", f"has '{value}' twice")
    if config.task.name == "tabular_classification" and config.num_classes is None:
        yield Problem("task.classes", "tabular_classification needs it: how many classes the target has")
    if table.labels is None:
        return
    for label in _repeated(table.labels):
        yield Problem(f"{key}.labels", f"has '{label}' twice")
    if config.task.name == "tabular_regression":
        yield Problem(f"{key}.labels", "are of classes, and tabular_regression learns a number: leave it out")
    elif config.num_classes is not None and len(table.labels) != config.num_classes:
        yield Problem(f"{key}.labels", f"has {len(table.labels)} labels for task.classes {config.num_classes}")


def name_column(column: str | CategorySection) -> str:
    return column if isinstance(column, str) else column.name


def _repeated(words: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [word for word in words if word in seen or seen.add(word)]  # type: ignore[func-returns-value]
