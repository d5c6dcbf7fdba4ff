"""A recurrent network: embedding, LSTM or GRU, and one matrix over each token, or over the last one of a text."""

import torch
from torch import nn

from orchestrator.config.model import RnnSection


class Rnn(nn.Module):
    """Read from left to right, so what stands behind a token, padding too, changes nothing for it."""

    def __init__(self, vocab_size: int, outputs: int, section: RnnSection, *, each_token: bool) -> None:
        super().__init__()
        self.each_token = each_token
        self.embedding = nn.Embedding(vocab_size, section.embedding)
        self.recurrent = (nn.LSTM if section.kind == "lstm" else nn.GRU)(
            section.embedding,
            section.hidden,
            section.layers,
            batch_first=True,
            dropout=section.dropout if section.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(section.dropout)
        self.output = nn.Linear(section.hidden, outputs)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """[n, length, outputs] or [n, outputs]; texts are padded on the right, where `attention_mask` is 0."""
        hidden: torch.Tensor = self.recurrent(self.embedding(input_ids))[0]
        if not self.each_token:
            last = torch.full_like(input_ids[:, 0], -1) if attention_mask is None else attention_mask.long().sum(1) - 1
            hidden = hidden[torch.arange(len(hidden), device=hidden.device), last]
        logits: torch.Tensor = self.output(self.dropout(hidden))
        return logits
