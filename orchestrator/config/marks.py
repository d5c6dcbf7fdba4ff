"""Every key carries a mark: may it change when a run is resumed?

identity: another value is another run. rounding: same samples in every step, other rounding. free: changes no number.
Sections declare their fields through `identity`, `rounding` and `free`; `mark_of` reads the mark back."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Mark(StrEnum):
    IDENTITY = "identity"
    ROUNDING = "rounding"
    FREE = "free"


CountOrAuto = Annotated[int, Field(ge=1)] | Literal["auto"]


class Section(BaseModel):
    """A frozen part of the config; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, strict=True, allow_inf_nan=False)


def _field(mark: Mark, description: str, default: Any, **limits: Any) -> Any:
    if isinstance(default, Section | list | dict):
        factory = default.model_copy if isinstance(default, Section) else default.copy
        return Field(default_factory=factory, description=description, json_schema_extra={"mark": mark.value}, **limits)
    return Field(default, description=description, json_schema_extra={"mark": mark.value}, **limits)


def identity(description: str, default: Any = ..., **limits: Any) -> Any:
    """A key whose change makes another run."""
    return _field(Mark.IDENTITY, description, default, **limits)


def rounding(description: str, default: Any = ..., **limits: Any) -> Any:
    """A key whose change keeps the samples of every step and changes rounding only."""
    return _field(Mark.ROUNDING, description, default, **limits)


def free(description: str, default: Any = ..., **limits: Any) -> Any:
    """A key whose change alters no number of the run."""
    return _field(Mark.FREE, description, default, **limits)


def mark_of(field: FieldInfo) -> Mark:
    extra = field.json_schema_extra
    if not isinstance(extra, dict) or "mark" not in extra:
        raise TypeError(f"config field without a mark: {field.description}")
    return Mark(str(extra["mark"]))
