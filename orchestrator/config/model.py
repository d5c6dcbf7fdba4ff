"""Section model: which one, what it begins with, and which of its parameters learn."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.config.marks import Section, identity

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid"]
Count = Annotated[int, Field(ge=1)]
INPUTS = "numbers of a sample where data.table does not tell: of a picture height x width x channels"


class LinearSection(Section):
    """One matrix: linear regression, or logistic regression, by task."""

    bias: bool = identity("a constant beside the weights", True)
    inputs: int | None = identity(INPUTS, None, ge=1)


class MlpSection(Section):
    hidden: list[Count] = identity("units of each hidden layer", min_length=1)
    activation: Activation = identity("between layers", "relu")
    dropout: float = identity("share of the units left out in training", 0.0, ge=0, lt=1)
    inputs: int | None = identity(INPUTS, None, ge=1)


class CnnBlock(Section):
    """Convolutions of one width, then a step down in size."""

    channels: int = identity("channels of the block", ge=1)
    convolutions: int = identity("convolutions one after another", 1, ge=1)
    kernel: int = identity("height and width of each", 3, ge=1)
    pool: int = identity("then the largest of each square of this size; 1: none", 2, ge=1)


class CnnSection(Section):
    """Blocks of convolution, norm and activation; then the mean over the picture, and one matrix."""

    blocks: list[CnnBlock] = identity("in order", min_length=1)
    channels_in: int = identity("channels of the picture", 3, ge=1)
    norm: Literal["group", "batch", "none"] = identity("group, unlike batch, is exact on any number of ranks", "group")
    groups: int = identity("norm group: groups of channels; as many as divide them evenly, at most this", 8, ge=1)
    activation: Activation = identity("after each norm", "relu")
    dropout: float = identity("before the last matrix: share left out in training", 0.0, ge=0, lt=1)


class RnnSection(Section):
    """Embedding, recurrent layers, and one matrix: over each token for causal_lm, over the last one for classes."""

    kind: Literal["lstm", "gru"] = identity("the cell", "lstm")
    embedding: int = identity("numbers a token", 128, ge=1)
    hidden: int = identity("units a layer", 256, ge=1)
    layers: int = identity("layers", 1, ge=1)
    dropout: float = identity("between layers, and before the last matrix", 0.0, ge=0, lt=1)


class CustomSection(Section):
    """A user's own module."""

    build: str = identity("a class or function by its dotted name; called with args, gives the torch module")
    args: dict[str, Any] = identity("its arguments by name", {})


class LoraSection(Section):
    """Small matrices beside the model's, which alone learn."""

    rank: int = identity("rows of the small matrices", 8, ge=1)
    alpha: float = identity("their sum counts alpha / rank", 16.0, gt=0)
    dropout: float = identity("share of their input left out in training", 0.0, ge=0, lt=1)
    targets: list[str] | Literal["linear"] = identity(
        "ends of the names of modules that get them; linear: every linear one but the head", "linear"
    )


MODEL_KINDS = ("transformers", "pretrained", "linear", "mlp", "cnn", "rnn", "custom")


class ModelSection(Section):
    """Exactly one way to name a model."""

    transformers: dict[str, Any] | None = identity("a transformers config: model_type and its keys", None)
    pretrained: str | None = identity("a local transformers directory to start from", None)
    linear: LinearSection | None = identity("linear or logistic regression: {}", None)
    mlp: MlpSection | None = identity("layers of units, each connected with all of the next", None)
    cnn: CnnSection | None = identity("convolutions, for pictures", None)
    rnn: RnnSection | None = identity("a recurrent network, for text", None)
    custom: CustomSection | None = identity("a user's own module by dotted name", None)
    weights: str | None = identity(
        "safetensors file or folder whose tensors it begins with, by name; not with pretrained, which has its own", None
    )
    new_head: bool = identity(
        "what the weights lack, or have in another shape, begins anew; false: that is an error", False
    )
    freeze: list[str] = identity("parameters that do not learn: patterns of names, as embed* or *.layers.[01].*", [])
    lora: LoraSection | None = identity("train small matrices beside frozen weights; none: train the weights", None)
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = identity(
        "how transformers attend; auto: sdpa", "auto"
    )

    @model_validator(mode="after")
    def name_one_model(self) -> "ModelSection":
        given = [kind for kind in MODEL_KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            stated = f"; given are {' and '.join(given)}, and null takes one back" if given else ""
            raise ValueError(f"give exactly one of {', '.join(MODEL_KINDS)}{stated}")
        if self.transformers is not None and "model_type" not in self.transformers:
            raise ValueError("model.transformers needs model_type, for example llama or gpt2")
        if self.pretrained is not None and self.weights is not None:
            raise ValueError("model.pretrained brings its own weights: leave model.weights out")
        return self
