"""Sections about learning: optim, schedule, train, evaluate."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.config.marks import CountOrAuto, Section, free, identity, rounding
from orchestrator.config.problems import nearest
from orchestrator.core.measures import LARGER_IS_BETTER

_BY_NORM = "scales a step by norms of whole parameters"
_BY_MATRIX = "looks at whole matrices"
ELEMENTWISE = "take adamw, adam, sgd, adagrad or lion"
NOT_ELEMENTWISE = {
    "lamb": _BY_NORM,
    "lars": _BY_NORM,
    "novograd": _BY_NORM,
    "adafactor": "keeps sums over rows and columns of whole matrices",
    "muon": _BY_MATRIX,
    "shampoo": _BY_MATRIX,
    "soap": _BY_MATRIX,
    "lbfgs": "searches along a line through all parameters",
    "adam8bit": "keeps its state in blocks that another world would cut apart",
    "adamw8bit": "keeps its state in blocks that another world would cut apart",
}


class OptimSection(Section):
    """Elementwise ones only: a step on a stretch of a parameter is that stretch of a step on the whole."""

    name: Literal["adamw", "adam", "sgd", "adagrad", "lion"] = identity("the optimizer", "adamw")
    lr: float = identity("peak learning rate", 3e-4, gt=0)
    weight_decay: float = identity(
        "decay of weights with two or more dimensions: decoupled (adamw, lion) or L2 (adam, sgd, adagrad)", 0.0, ge=0
    )
    no_decay: list[str] = identity("parameters that do not decay although they are matrices: patterns of names", [])
    l1: float = identity("L1 penalty of the weights that decay: it times their sign joins the gradient", 0.0, ge=0)
    betas: tuple[float, float] = identity("adamw, adam, lion: decay of the moments", (0.9, 0.95), strict=False)
    eps: float = identity("adamw, adam, adagrad: term added to the denominator", 1e-8, gt=0)
    momentum: float = identity("sgd: momentum", 0.0, ge=0, lt=1)
    nesterov: bool = identity("sgd: look ahead along the momentum", False)
    layer_decay: float = identity("learning rate of each layer as a share of that of the layer above", 1.0, gt=0, le=1)
    rates: dict[str, Annotated[float, Field(gt=0)]] = identity(
        "by pattern of names, what the learning rate is multiplied with", {}
    )

    @field_validator("name", mode="before")
    @classmethod
    def refuse_others_with_the_reason(cls, name: object) -> object:
        if not isinstance(name, str):
            return name
        if (why := NOT_ELEMENTWISE.get(name.lower().replace("-", "").replace("_", ""))) is not None:
            raise ValueError(f"{name} {why}, and a rank may hold any stretch of one: {ELEMENTWISE}")
        if "." in name or ":" in name:
            raise ValueError(
                f"'{name}': an optimizer of your own cannot be moved to another world, since what it keeps of an "
                f"element is not known: {ELEMENTWISE}"
            )
        return name

    @model_validator(mode="after")
    def look_ahead_along_something(self) -> "OptimSection":
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("optim.nesterov needs optim.momentum above 0")
        return self


class ScheduleSection(Section):
    """The learning rate as a function of the step, and for plateau of the validations before it."""

    name: Literal["constant", "step", "linear", "cosine", "wsd", "inverse_sqrt", "plateau"] = identity(
        "shape of the learning rate after warm-up", "constant"
    )
    warmup_steps: int = identity("steps of linear warm-up from zero", 0, ge=0)
    final_share: float = identity("linear, cosine, wsd: last learning rate as a share of the peak", 0.1, ge=0, le=1)
    every_steps: int | None = identity("step: multiply by factor after each so many steps past warm-up", None, ge=1)
    factor: float = identity("step, plateau: what it is multiplied with", 0.1, gt=0, lt=1)
    decay_share: float = identity("wsd: share of the steps, the last ones, in which it falls", 0.2, gt=0, le=1)
    patience: int = identity("plateau: validations without a better one before it falls", 3, ge=1)
    min_delta: float = identity("plateau: a validation is better if it is so by more than this", 0.0, ge=0)

    @model_validator(mode="after")
    def know_when_to_step(self) -> "ScheduleSection":
        if self.name == "step" and self.every_steps is None:
            raise ValueError("schedule step needs schedule.every_steps: after how many steps the rate falls")
        return self


class TrainSection(Section):
    """The length is stated in one of three ways; a run's own config has it in steps."""

    steps: int | None = identity("optimizer updates in the whole run", None, ge=1)
    epochs: float | None = identity("instead of steps: passes over the source with the largest share", None, gt=0)
    tokens: int | None = identity("instead of steps: tokens to predict; the last step may bring some more", None, ge=1)
    global_batch: int = identity("samples in one step over all ranks", ge=1)
    micro_batch: CountOrAuto = rounding("samples a rank computes at once", "auto")
    precision: Literal["fp32", "bf16", "fp16"] = identity(
        "arithmetic of forward and backward; fp16 on CUDA only", "bf16"
    )
    clip_norm: float | None = identity("largest global gradient norm", None, gt=0)
    deterministic: bool = rounding("CUDA: deterministic kernels, slower", False)
    checkpoint_activations: bool = rounding("compute activations again in the backward pass, to save memory", False)
    compile: bool = rounding("torch.compile the model: slower to start, faster steps on GPUs", False)
    log_every: int = free("steps between lines shown where there is no terminal for a bar", 10, ge=1)

    @model_validator(mode="after")
    def state_one_length(self) -> "TrainSection":
        given = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            stated = f"; given are {' and '.join(given)}, and null takes one back" if given else ""
            raise ValueError(f"give exactly one of train.steps, train.epochs and train.tokens{stated}")
        return self

    @property
    def num_steps(self) -> int:
        """The steps of a run, whose config has been decided."""
        if self.steps is None:
            raise ValueError("train.steps is decided by data/ordering/length.py once the data is prepared")
        return self.steps


METRICS = (
    *("perplexity", "accuracy", "precision", "recall", "f1", "roc_auc", "confusion_matrix"),
    *("mse", "mae", "r2"),
)


class EarlyStopSection(Section):
    """Stop when validation gets no better."""

    patience: int = free("validations without a better one", 5, ge=1)
    min_delta: float = free("one is better if it is so by more than this", 0.0, ge=0)


class EvaluateSection(Section):
    every_steps: int | None = free("steps between validations; none when absent", None, ge=1)
    max_batches: int | None = free("validate on at most this many global batches", None, ge=1)
    metrics: list[str] | Literal["auto"] = free(
        f"what to report beside the loss: {', '.join(METRICS)}; auto: what fits the task", "auto"
    )
    average: Literal["macro", "micro", "none"] = free(
        "precision, recall, f1 over classes: their mean, over all samples alike, or each class by itself", "macro"
    )
    best_by: str = free("the metric that early stopping, a plateau and checkpoint.keep.best go by", "loss")
    early_stop: EarlyStopSection | None = free("stop when validation gets no better; none: do all steps", None)

    @field_validator("best_by")
    @classmethod
    def know_which_way_is_better(cls, name: str) -> str:
        if name not in LARGER_IS_BETTER:
            known = ", ".join(LARGER_IS_BETTER)
            hint = nearest(name, LARGER_IS_BETTER)
            raise ValueError(f"'{name}' is no single number to be best by{hint}; take one of {known}")
        return name

    @model_validator(mode="after")
    def validate_to_stop_early(self) -> "EvaluateSection":
        if self.early_stop is not None and not self.every_steps:
            raise ValueError("evaluate.early_stop needs evaluate.every_steps: without validations nothing tells when")
        return self
