"""Sections about learning: optim, schedule, train, evaluate."""

from typing import Literal

from pydantic import model_validator

from orchestrator.config.marks import CountOrAuto, Section, free, identity, rounding


class OptimSection(Section):
    name: Literal["adamw", "sgd"] = identity("the optimizer", "adamw")
    lr: float = identity("peak learning rate", 3e-4, gt=0)
    weight_decay: float = identity(
        "decoupled decay (adamw) or L2 (sgd) of weights with two or more dimensions", 0.0, ge=0
    )
    betas: tuple[float, float] = identity("adamw: decay of the two moments", (0.9, 0.95), strict=False)
    eps: float = identity("adamw: term added to the denominator", 1e-8, gt=0)
    momentum: float = identity("sgd: momentum", 0.0, ge=0, lt=1)


class ScheduleSection(Section):
    name: Literal["constant", "cosine"] = identity("shape of the learning rate after warm-up", "constant")
    warmup_steps: int = identity("steps of linear warm-up from zero", 0, ge=0)
    final_share: float = identity("cosine: last learning rate as a share of the peak", 0.1, ge=0, le=1)


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


class EvaluateSection(Section):
    every_steps: int | None = free("steps between validations; none when absent", None, ge=1)
    max_batches: int | None = free("validate on at most this many global batches", None, ge=1)
    metrics: list[Literal["perplexity"]] = free("what to report beside the loss", ["perplexity"])
