"""The whole config of one run, as the YAML file has it."""

from collections.abc import Iterator
from typing import Any

from pydantic import model_validator

from orchestrator.config.data import DataSection
from orchestrator.config.deepspeed_check import check_deepspeed
from orchestrator.config.marks import free, identity, rounding
from orchestrator.config.metrics import problems_of_metrics
from orchestrator.config.model import ModelSection
from orchestrator.config.model_check import check_model
from orchestrator.config.preparing import PrepareSection
from orchestrator.config.problems import Problem, WrongValues, nearest
from orchestrator.config.running import CheckpointSection, ClusterSection, ElasticSection, RunFields, TrackingSection
from orchestrator.config.task import TaskSection
from orchestrator.config.task_check import check_task
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
        problems = [*self._problems_across_sections(), *check_deepspeed(self)]
        if problems:
            raise WrongValues(problems)
        return self

    def _problems_across_sections(self) -> Iterator[Problem]:
        train, warmup = self.train, self.schedule.warmup_steps
        yield from check_task(self)
        yield from self._problems_ahead()
        yield from check_model(self)
        yield from problems_of_metrics(self.task, self.evaluate, self.num_classes)
        if self.evaluate.every_steps and not (self.data.split.validation or self.data.split.folds):
            yield Problem("evaluate.every_steps", "needs data.split.validation above 0, for example 0.02")
        if self.checkpoint.keep.best and not self.evaluate.every_steps:
            yield Problem(
                "checkpoint.keep.best", "needs evaluate.every_steps: there is no validation loss to be best by"
            )
        if self.schedule.name == "plateau" and not self.evaluate.every_steps:
            yield Problem("schedule.name", "plateau needs evaluate.every_steps: the rate follows the validations")
        if train.steps is not None and warmup >= train.steps:
            yield Problem("schedule.warmup_steps", f"leaves no step of train.steps {train.steps}", str(warmup))
        if train.precision == "fp16" and self.cluster.device == "cpu":
            yield Problem("train.precision", "fp16 needs cluster.device cuda; on cpu take bf16 or fp32", "fp16")
        known = {source.label for source in self.data.train}
        for i, phase in enumerate(self.data.phases):
            for name in sorted(set(phase.weights or ()) - known):
                key = f"data.phases.{i}.weights.{name}"
                yield Problem(key, f"is no source of data.train{nearest(name, known)}")

    def _problems_ahead(self) -> Iterator[Problem]:
        """Training that begins before all is prepared cannot know what only the whole of it tells."""
        if self.prepare.mode != "ahead":
            return
        if self.train.epochs is not None:
            yield Problem(
                "train.epochs",
                "how long a pass is shows when all is prepared, too late for prepare.mode ahead: state train.steps",
            )
        if self.prepare.statistics == "all":
            yield Problem(
                "prepare.statistics",
                "figures of all rows are there when all shards are read, too late for prepare.mode ahead: take "
                "first, or prepare.mode first",
            )
        for i, phase in enumerate(self.data.phases):
            if phase.seq_len not in (None, self.packed_len):
                yield Problem(
                    f"data.phases.{i}.seq_len",
                    "another length begins at a place that shows when all before it is "
                    "prepared, too late for prepare.mode ahead: take prepare.mode first",
                )

    @property
    def packed_len(self) -> int | None:
        """Tokens of a packed sequence; None where samples are fed as they are."""
        return self.task.seq_len if self.task.name == "causal_lm" else None

    @property
    def reads_tokens(self) -> bool:
        """Whether the model is fed tokens: packed ones, or those of the field `text`."""
        return self.prepare.tokens is not None

    @property
    def num_classes(self) -> int | None:
        """Classes that are told apart; None where the config does not say."""
        stated = (self.model.transformers or {}).get("num_labels")
        return self.task.classes or (stated if isinstance(stated, int) else None)

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage from DeepSpeed's own key; 0 when absent."""
        return int(self.deepspeed.get("zero_optimization", {}).get("stage", 0))
