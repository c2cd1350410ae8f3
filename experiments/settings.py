"""Settings that are strictly checked: whatever is wrong is refused with the path of its key and what is allowed."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

KeyPath = tuple[str | int, ...]  # of a key in a tree of settings: ("training", "steps")


class Problem(NamedTuple):
    """What is wrong with one key."""

    path: KeyPath
    message: str


class SettingsError(ValueError):
    """Settings that cannot be run; `problems` says where and why."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{dotted(p.path)}: {p.message}" for p in problems))
        self.problems = problems


class Settings(BaseModel):
    """Frozen; unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def validate(kind: Any, value: Any, path: KeyPath) -> Any:
    """`value` as a `kind` (a pydantic model, dataclass or type).

    Raises:
        SettingsError: with the whole path of each wrong key, what was found, and what is allowed.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        raise SettingsError([_problem(kind, path, dict(details)) for details in error.errors()]) from None


@functools.cache  # it takes longer to make one than to use it
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def refuse(path: KeyPath, message: str) -> SettingsError:
    """One problem, to be raised."""
    return SettingsError([Problem(path, message)])


def suggestion(word: object, allowed: Iterable[str]) -> str:
    """``"; did you mean steps? Allowed: …"``, or without a near word ``". Allowed: …"``."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(word), allowed, n=1)
    return (f"; did you mean {near[0]}?" if near else ".") + f" Allowed: {', '.join(allowed)}"


def dotted(path: KeyPath) -> str:
    """``("compare", "task", 1, "name")`` → ``compare.task[1].name``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def _problem(kind: Any, path: KeyPath, details: dict[str, Any]) -> Problem:
    inside = tuple(details["loc"])
    path, found = path + inside, details["input"]
    match details["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return Problem(path, "unknown key" + suggestion(path[-1], _keys(_kind_at(kind, inside[:-1]))))
        case "missing":
            return Problem(path, "is missing")
        case "literal_error":
            allowed = [word.strip("' ") for word in details["ctx"]["expected"].replace(" or ", ", ").split(",")]
            return Problem(path, f"found {found!r}" + suggestion(found, allowed))
        case "value_error":
            error = details["ctx"]["error"]
            if isinstance(error, SettingsError):  # of a check of several settings that knows whose fault it is
                return Problem(path + error.problems[0].path, error.problems[0].message)
            return Problem(path, str(error))
        case _:
            message = details["msg"].removeprefix("Input should be ")
            return Problem(path, f"found {found!r}; it should be {message}")


def _kind_at(kind: Any, path: KeyPath) -> Any:
    """What stands at a path in a `kind`: the type of a field, or of a table's values."""
    for key in path:
        kind = get_args(kind)[1] if get_origin(kind) is dict else kind.model_fields[key].annotation
    return kind


def _keys(kind: Any) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return [field.name for field in fields(kind)]


def part(tree: Mapping[str, Any], key: str, kind: Any) -> Any:
    """``tree[key]`` as a `kind`.

    Raises:
        SettingsError: it is missing, or `validate` refuses it.
    """
    if key not in tree:
        raise refuse((key,), "is missing")
    return validate(kind, tree[key], (key,))


def choice(tree: Mapping[str, Any], path: KeyPath, allowed: Mapping[str, Any]) -> str:
    """The name at `path`, which must be one of `allowed`.

    Raises:
        SettingsError: it is missing, or another.
    """
    value: Any = tree
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            raise refuse(path, f"is missing.{suggestion('', allowed)}")
        value = value[key]
    if not isinstance(value, str) or value not in allowed:
        raise refuse(path, f"found {value!r}{suggestion(value, allowed)}")
    return value
