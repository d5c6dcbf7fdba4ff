"""The whole config of one run, as the YAML file has it."""

from typing import Any

from pydantic import model_validator

from orchestrator.config.data import DataSection, ModelSection, PrepareSection, TaskSection
from orchestrator.config.marks import identity, free, rounding
from orchestrator.config.running import CheckpointSection, ClusterSection, ElasticSection, RunFields, TrackingSection
from orchestrator.config.training import EvaluateSection, OptimSection, ScheduleSection, TrainSection


class RunConfig(RunFields):
    data: DataSection = identity("where samples come from and in which order")
    prepare: PrepareSection = identity("what happens to samples before training", PrepareSection())
    task: TaskSection = identity("what is learned", TaskSection())
    model: ModelSection = identity("the model")
    optim: OptimSection = identity("the optimizer", OptimSection())
    schedule: ScheduleSection = identity("the learning rate over the steps", ScheduleSection())
    train: TrainSection = identity("length, batch and arithmetic of training")
    evaluate: EvaluateSection = free("validation during training", EvaluateSection())
    deepspeed: dict[str, Any] = rounding("DeepSpeed's own keys, from the list in docs/deepspeed.md", {})
    cluster: ClusterSection = rounding("machines", ClusterSection())
    elastic: ElasticSection = free("what happens on failures", ElasticSection())
    checkpoint: CheckpointSection = free("durable checkpoints", CheckpointSection())
    tracking: TrackingSection = free("what is written for people", TrackingSection())

    @model_validator(mode="after")
    def check_across_sections(self) -> "RunConfig":
        problems = []
        if self.task.name == "causal_lm" and self.prepare.tokens is None:
            problems.append("task causal_lm needs prepare.tokens: set prepare.tokens.train_bpe or prepare.tokens.tokenizer")
        if self.evaluate.every_steps and not self.data.split.validation:
            problems.append("evaluate.every_steps needs a validation split: set data.split.validation, for example 0.02")
        if self.checkpoint.keep.best and not self.evaluate.every_steps:
            problems.append("checkpoint.keep.best needs evaluate.every_steps: there is no validation loss to be best by")
        if self.schedule.warmup_steps >= self.train.steps:
            problems.append(f"schedule.warmup_steps {self.schedule.warmup_steps} leaves no step of train.steps {self.train.steps}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage from DeepSpeed's own key; 0 when absent."""
        return int(self.deepspeed.get("zero_optimization", {}).get("stage", 0))
