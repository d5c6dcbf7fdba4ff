"""Section task: what is learned, by which loss."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from orchestrator.config.marks import Section, identity
from orchestrator.config.problems import nearest

TASK_NAMES = (
    "causal_lm",
    "text_classification",
    "image_classification",
    "tabular_classification",
    "tabular_regression",
)


class LossSection(Section):
    name: Literal["auto", "cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"] = identity(
        "auto: cross-entropy to tell classes apart, mean squared error for numbers", "auto"
    )
    label_smoothing: float = identity("cross-entropy: share of a label given to all classes alike", 0.0, ge=0, lt=1)
    class_weights: list[Annotated[float, Field(gt=0)]] | Literal["balanced"] | None = identity(
        "what a sample of each class counts; balanced: as much less as its class is more frequent in training", None
    )
    delta: float = identity("huber: errors beyond this count by their size, not by its square", 1.0, gt=0)


class TaskSection(Section):
    name: str = identity(f"what is learned: {', '.join(TASK_NAMES)}, or a class's dotted name", "causal_lm")
    classes: int | None = identity("classification: how many classes there are", None, ge=2)
    loss: LossSection = identity("what is made small", LossSection())
    seq_len: int = identity("causal_lm: tokens a sequence is trained on; text_classification: at most read", 1024, ge=1)
    documents_apart: bool = identity(
        "causal_lm: a token attends to its own document only, and positions count from where that begins", False
    )
    step: str | None = identity("a function's dotted name that takes the place of the task's step", None)

    @field_validator("name")
    @classmethod
    def know_the_name(cls, name: str) -> str:
        if name not in TASK_NAMES and "." not in name and ":" not in name:
            raise ValueError(
                f"there is no task '{name}'{nearest(name, TASK_NAMES)}; take one of {', '.join(TASK_NAMES)}"
            )
        return name
