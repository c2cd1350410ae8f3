"""YAML as people write it, from texts that may hold anything."""

from __future__ import annotations

import re
from typing import Any

import yaml

from experiments.settings import KeyPath, refuse

VALUES = 100_000  # at most, every alias written out; more is a mistake or meant to fill the memory
DEPTH = 32
LARGEST = 2**63  # no setting is a whole number beyond it, and little can count with one


def parse_yaml(text: str) -> Any:
    """The tree of plain values that the text stands for, in which every key is text and every alias is written out.

    A key twice is an error, and 4e-3 is a number (YAML 1.2; PyYAML reads it as text).

    Raises:
        SettingsError: it is not YAML, or of a size that no settings have; with the path of what is wrong.
    """
    try:
        tree = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise refuse((), "too deeply nested") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets those of int() and date() pass
        raise refuse((), f"not YAML: {error}") from None
    _check(tree, (), (), [0])
    return _written_out(tree)


def _written_out(value: Any) -> Any:
    """The same values, none of them in two places, where changing one would change the other."""
    if isinstance(value, dict):
        return {key: _written_out(inner) for key, inner in value.items()}
    return [_written_out(inner) for inner in value] if isinstance(value, list) else value


def _check(value: Any, path: KeyPath, above: tuple[int, ...], seen: list[int]) -> None:
    """Refuses what is too much, from the top down; `seen` counts, `above` holds the containers around the value."""
    seen[0] += 1
    if seen[0] > VALUES:
        raise refuse((), f"expands to more than {VALUES:,} values")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise refuse(path, f"no setting is a number of {len(str(abs(value)))} digits")
    if isinstance(value, str) and not value.isascii():
        _check_text(value, path)
    if not isinstance(value, dict | list):
        return
    if id(value) in above:
        raise refuse(path, "contains itself")
    if len(above) == DEPTH:
        raise refuse(path, "too deeply nested")
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise refuse(path, f"the key {key!r} is not text")
            _check_text(key, path)
        _check(inner, (*path, key), (*above, id(value)), seen)


def _check_text(text: str, path: KeyPath) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refuse(path, f"{text!r} holds half a character") from None


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
