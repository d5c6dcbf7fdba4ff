"""What is wrong with the model: whether it can do the task, and what goes with what. Called by run.py."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.config.model import MODEL_KINDS
from orchestrator.config.problems import Problem

if TYPE_CHECKING:
    from orchestrator.config.run import RunConfig

TABULAR = ("tabular_classification", "tabular_regression")
# Which models a task of ours can be learned by; a user's task knows its own.
FITTING = {
    "causal_lm": ("transformers", "pretrained", "rnn", "custom"),
    "text_classification": ("transformers", "pretrained", "rnn", "custom"),
    "image_classification": ("transformers", "pretrained", "linear", "mlp", "cnn", "custom"),
    **dict.fromkeys(TABULAR, ("linear", "mlp", "custom")),
}
FITTING_ANY = ("linear", "mlp", "cnn", "custom")


def check_model(config: "RunConfig") -> Iterator[Problem]:
    model, task = config.model, config.task
    kind = next(kind for kind in MODEL_KINDS if getattr(model, kind) is not None)
    fitting = FITTING.get(task.name, FITTING_ANY)
    if kind not in fitting:
        yield Problem(f"model.{kind}", f"cannot learn {task.name}: take one of {', '.join(fitting)}")
        return
    yield from _check_sizes(config, kind)
    yield from _check_begin(config)
    yield from _check_attention(config, kind)
    if kind == "rnn" and task.documents_apart:
        yield Problem("task.documents_apart", "a recurrent network reads a row through: set it to false", "true")


def _check_sizes(config: "RunConfig", kind: str) -> Iterator[Problem]:
    """The first matrix of linear and mlp, and the last one of all models of ours, must be known from the config."""
    task, table = config.task, config.data.table
    section = getattr(config.model, kind)
    if kind in ("linear", "mlp"):
        if table is None and section.inputs is None and task.name not in TABULAR:
            yield Problem(f"model.{kind}.inputs", "needs it: height x width x channels of the pictures")
        if table is not None and section.inputs is not None:
            yield Problem(f"model.{kind}.inputs", "data.table tells it: leave it out", str(section.inputs))
    ours = kind not in ("transformers", "pretrained", "custom")
    if ours and task.name in ("image_classification", "text_classification") and task.classes is None:
        yield Problem("task.classes", f"model.{kind} needs it: how many classes there are")


def _check_begin(config: "RunConfig") -> Iterator[Problem]:
    model = config.model
    weights = model.weights or model.pretrained
    if model.new_head and weights is None:
        yield Problem("model.new_head", "is for model.weights or model.pretrained: leave it out", "true")
    if model.lora is not None and weights is None:
        yield Problem("model.lora", "stands beside weights that stay as they are: give model.weights or pretrained")
    if model.lora is not None and model.lora.targets == []:
        yield Problem("model.lora.targets", "name at least one, or take linear: every linear module but the head")


def _check_attention(config: "RunConfig", kind: str) -> Iterator[Problem]:
    attention = config.model.attention
    if attention != "auto" and kind not in ("transformers", "pretrained"):
        yield Problem("model.attention", f"is for transformers, not for model.{kind}: leave it out", attention)
    if attention != "flash_attention_2":
        return
    key, instead = "model.attention", "take sdpa, which uses flash kernels of torch where it can"
    if config.cluster.device == "cpu":
        yield Problem(key, f"runs on CUDA only: {instead}", attention)
    if config.train.precision == "fp32":
        yield Problem(key, f"computes in bf16 or fp16, and train.precision is fp32: {instead}", attention)
    if config.task.documents_apart:
        yield Problem(key, f"keeps documents apart in micro batches of one alone: {instead}", attention)
