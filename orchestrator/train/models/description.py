"""What a model is made of, without the model: names, shapes, ties. Plain data that can be kept as JSON.

Made by build.py on the meta device; read by memory.py and the launcher, which must not wait for torch."""

import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, Self

_REPEATED_BLOCK = re.compile(r"^((?:.*?\.)?\d+)\.")  # "model.layers.0." of "model.layers.0.mlp.up_proj.weight"


def block_of(name: str) -> str | None:
    """The repeated block that a tensor belongs to, by its name up to the first number; None outside of one."""
    block = _REPEATED_BLOCK.match(name)
    return block[1] if block else None


@dataclass(frozen=True, slots=True)
class TensorShape:
    name: str
    shape: tuple[int, ...]
    kind: Literal["trainable", "frozen", "buffer"]

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """`tensors` names every parameter and persistent buffer once; `tied` leads from each further name to the first.

    A model that reads no tokens has a `vocab_size` of 0; `layers` and `hidden_size` are 0 where it does not tell.
    `inexact` says in words which layers depend on the world; `begins_anew` names tensors that weights do not bring."""

    model_type: str
    tensors: tuple[TensorShape, ...]
    tied: dict[str, str]
    layers: int
    hidden_size: int
    vocab_size: int
    inexact: tuple[str, ...] = ()
    begins_anew: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel for tensor in self.tensors if tensor.kind != "buffer")

    @property
    def num_trainable(self) -> int:
        return sum(tensor.numel for tensor in self.tensors if tensor.kind == "trainable")

    @property
    def largest_block(self) -> int:
        """Parameters of the largest repeated block (a decoder layer) or of the largest module outside of one."""
        sizes: dict[str, int] = defaultdict(int)
        for tensor in self.tensors:
            if tensor.kind != "buffer":
                sizes[block_of(tensor.name) or tensor.name.rpartition(".")[0]] += tensor.numel
        return max(sizes.values(), default=0)

    def flops_per_token(self, seq_len: int) -> int:
        """Estimate of forward and backward: 6 a matrix parameter (4 if it does not learn), and 12 a layer, hidden unit
        and token attended to.

        Looking up an embedding multiplies nothing, so an untied one does not count. Experts that a token does not
        visit do count: for mixtures of experts this is an upper bound."""
        matrices = [tensor for tensor in self.tensors if tensor.kind != "buffer" and len(tensor.shape) > 1]
        embedding = [tensor for tensor in matrices if tensor.shape == (self.vocab_size, self.hidden_size)][:1]
        multiplied = [tensor for tensor in matrices if self.tied or tensor not in embedding]
        of_matrices = sum((6 if tensor.kind == "trainable" else 4) * tensor.numel for tensor in multiplied)
        return of_matrices + 12 * self.layers * self.hidden_size * seq_len

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        fields = {key: item for key, item in value.items() if key != "format"}
        fields["tensors"] = tuple(TensorShape(t["name"], tuple(t["shape"]), t["kind"]) for t in value["tensors"])
        fields["inexact"], fields["begins_anew"] = tuple(value["inexact"]), tuple(value["begins_anew"])
        return cls(**fields)
