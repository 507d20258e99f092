"""Options of a component as a record: validated, listed and documented by one mechanism."""

from collections.abc import Iterable, Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from srptq_plugin.errors import SrptqError, at_once
from srptq_plugin.utils.field_types import key_of, problem


class Options(BaseModel):
    """A frozen record of options. The sentence under a field is its documentation.

    A component without options has this very class. Unknown names and values of other kinds are refused.

    >>> class Widen(Options):
    ...     factor: float = 1.1
    >>> Widen.parse({"factor": 2}, "reconstruction").factor
    2.0
    >>> Widen.parse({"facto": 2}, "reconstruction")
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: reconstruction.facto: unknown key; did you mean 'factor'? keys: factor
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, values: Mapping[str, object], where: str) -> Self:
        """Validate values and fill in the defaults. All mistakes are raised in one `SrptqError`.

        Args:
            values: the options by name.
            where: what the message begins with, such as a section of a recipe.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            details = error.errors(include_url=False)
            raise SrptqError(at_once(_line(where, detail, cls.model_fields) for detail in details)) from error


def _line(where: str, detail: ErrorDetails, names: Iterable[str]) -> str:
    return f"{where}.{key_of(detail)}: {problem(detail, names)}"
