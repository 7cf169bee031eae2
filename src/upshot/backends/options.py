"""What the options of all backends have in common: keys in kebab-case, and one message for an invalid option."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from upshot.errors import ConfigError
from upshot.schema.quantities import InvalidQuantity, read_bytes, read_duration
from upshot.validation import invalid, validation_problems

M = TypeVar("M", bound="BackendOptions")


class BackendOptions(BaseModel):
    """A mapping in the operator's file. A field `log_size` is written `log-size` there."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=lambda name: name.replace("_", "-")
    )


def validate_options(model: type[M], options: Mapping[str, Any]) -> M:
    """
    Validate the options of a backend.

    Raises:
        ConfigError: An option is invalid. The message names its key.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        problem = validation_problems(error.errors(include_url=False), model)[0]
        raise ConfigError(f"{problem.dotted_path}: {problem.message}" if problem.path else problem.message) from error


def _quantity(parse: Callable[[Any], float]) -> BeforeValidator:
    def validate(value: Any) -> float:
        try:
            return parse(value)
        except InvalidQuantity as error:
            raise invalid(f"{value!r} {error}") from error

    return BeforeValidator(validate)


Size = Annotated[int, _quantity(read_bytes)]  #: bytes, written as 64MiB
Duration = Annotated[float, _quantity(read_duration)]  #: seconds, written as 30s
