"""Name the class of a text."""

import torch

from orchestrator.config.run import RunConfig
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.models.transformers import padding_token
from orchestrator.train.tasks.classes import Classes
from orchestrator.train.tasks.task import Fields, Forward, Inputs, Measured, logits_of, move


class TextClassification:
    """Name the class of a text: `tokens` [n, seq_len], of which the first `length` [n] are the text's, and `label` [n]
    from 0. What stands behind a text is masked, so that it changes nothing but rounding, however far it reaches."""

    def __init__(self, config: RunConfig, manifest: Manifest) -> None:
        self._classes = Classes(config, manifest)
        self._padding = padding_token(config)

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        """As wide as the longest text of these."""
        self._classes.check(fields["label"])
        lengths = move(fields["length"], device).clamp(min=1)  # 0 only where a rank has no sample at all
        width = int(lengths.max())
        mask = torch.arange(width, device=device) < lengths[:, None]
        return {
            "input_ids": move(fields["tokens"][:, :width], device).long().where(mask, self._padding),
            "attention_mask": mask.long(),
            "labels": move(fields["label"], device).long(),
            "weights": move(fields["weights"], device),
        }

    def step(self, forward: Forward, inputs: Inputs) -> Measured:
        logits = logits_of(forward(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]))
        return self._classes.measure(logits, inputs["labels"], inputs["weights"])
