"""Builds frozen config dataclasses from plain JSON values; an unknown key is an error that names it."""

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def config_from_dict(kind: type[T], values: Mapping[str, Any], *, where: str = "config") -> T:
    """`values` as `kind`, nested dataclasses and tuples included. Absent keys keep their defaults.

    Raises ValueError naming the key and the valid ones; range checks are those of `kind` itself.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {type(values).__name__}, expected an object")  # noqa: TRY004
    assert dataclasses.is_dataclass(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; allowed: {', '.join(fields)}")
    hints = typing.get_type_hints(kind)
    try:
        return kind(
            **{name: _converted(hints[name], value, f"{where}.{name}") for name, value in values.items()}
        )
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def merged(config: T, changes: Mapping[str, Any], *, where: str = "config") -> T:
    """`config` with the values of `changes`, nested alike, in their places; errors as for config_from_dict."""
    assert dataclasses.is_dataclass(config)
    assert not isinstance(config, type)
    if not isinstance(changes, Mapping):
        raise ValueError(f"{where} is {type(changes).__name__}, expected an object")  # noqa: TRY004
    return config_from_dict(type(config), _overlaid(dataclasses.asdict(config), changes), where=where)


def _overlaid(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    if "kind" in changes and changes["kind"] != values.get("kind"):
        return dict(changes)  # another member of a union: the values in place mean nothing to it
    nested = {
        name: _overlaid(values[name], change)
        for name, change in changes.items()
        if isinstance(change, Mapping) and isinstance(values.get(name), Mapping)
    }
    return {**values, **changes, **nested}


def _converted(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_dict(hint, value, where=where)
    if isinstance(hint, types.UnionType):
        return _of_union(hint, value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is {value!r}, expected a list")
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} values, expected {len(kinds)}")
        return tuple(
            _converted(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value))
        )
    if hint is float and type(value) in (int, float):
        return _finite(value, where)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ValueError(f"{where} is {value!r}, expected {hint.__name__}")
    return value


def _finite(value: float, where: str) -> float:
    """JSON as Python reads it knows NaN, Infinity and integers that no float can hold."""
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f"{where} is beyond {sys.float_info.max:g}, expected a finite number") from error
    if not math.isfinite(number):
        raise ValueError(f"{where} is {value!r}, expected a finite number")
    return number


def _of_union(hint: types.UnionType, value: Any, where: str) -> Any:
    """One of several dataclasses, or one type or None."""
    members = set(typing.get_args(hint))
    if types.NoneType not in members:
        return config_from_dict(_member_of_union(hint, value, where), value, where=where)
    (kind,) = members - {types.NoneType}
    return None if value is None else _converted(kind, value, where)


def _member_of_union(hint: types.UnionType, value: Any, where: str) -> type:
    """The dataclass of a union that `value` names by its "kind"; without one, the first."""
    members = {member.__dataclass_fields__["kind"].default: member for member in typing.get_args(hint)}
    kind = value.get("kind", next(iter(members))) if isinstance(value, Mapping) else None
    if kind not in members:
        raise ValueError(f"{where}.kind is {kind!r}, allowed: {', '.join(members)}")
    member: type = members[kind]
    return member
