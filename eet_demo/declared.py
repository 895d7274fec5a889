"""What is declared of a setting, once: its words, its limits, its check. Page, command line, `/race`, trace and README
read it.

`RaceSettings` (`eet_demo.records`) declares its fields with `declared`; `settings_of` reads them back.
"""

from __future__ import annotations

import functools
import numbers
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from eet_demo.errors import RequestError

LIMIT_VARIABLE = "EET_DEMO_MAX_"
NAME_CHARACTERS = 1000
"""The most of a model, a side, a dtype: of what is no text of a visitor's own."""


def _most(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """The most that one race may ask of this machine, and what is kept of races. The owner sets each by a variable,
    `EET_DEMO_MAX_BATCH` and so on; a limit with the name of a setting is that setting's.

    Raises:
        ValueError: one that is not above 0.
    """

    batch: int = _most(8, "Rows of a race.")
    context: int = _most(32_768, "Ids of a row's prompt; a model's own limit may be lower.")
    prompt_ids: int = _most(65_536, "Ids of all rows' prompts together: rows times context.")
    new_tokens: int = _most(1024, "Tokens that a side writes in a row.")
    text_characters: int = _most(50_000, "Characters of a visitor's own text, and of a question.")
    temperature: float = _most(2.0, "Temperature of the sampler, at most 100.")
    race_seconds: int = _most(900, "Seconds a race may take once it has its turn.")
    kept_runs: int = _most(64, "Races that are kept for the pages that show them.")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{LIMIT_VARIABLE}{name.upper()} is {value}; it must be more than 0")

    @classmethod
    def none(cls) -> Limits:
        """Limits that nothing reaches: for a machine whose owner asks it, without visitors and without variables."""
        return cls(**{each.name: 2**31 for each in fields(cls)})


@dataclass(frozen=True)
class Setting:
    """One setting. `name`, `type` and `default` come from the field that declares it, `choices` from a literal type.

    Args:
        help: what it means, in a sentence; shown by the command line, `/race` and the README.
        label, info: over and under its control on the page.
        place: where the page has its control: `deck`, always seen, or one of the two rows below, `work` and `rules`;
            empty for none. This record is enough to build one, unless `ui.controls` knows how to build a better one.
        slider: its lowest value and its step; the highest is the largest that is allowed. None: a number is typed.
        words: what the page calls each choice.
        least, most: of a number (of text: characters); None for none.
        open_below: `least` itself is not allowed.
        or_zero: 0 is allowed, below `least`.
        limit: the field of Limits that the owner bounds it by; by default the one of its name, if there is one.
        visitors: whether visitors may set it; else the owner does, or the command line.
        in_every_trace: a trace without it is none; a setting that came later is absent from older ones.
    """

    help: str
    label: str = ""
    info: str | None = None
    place: Literal["", "deck", "work", "rules"] = ""
    slider: tuple[float, float] | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    least: float | None = None
    most: float | None = None
    open_below: bool = False
    or_zero: bool = False
    limit: str = ""
    visitors: bool = True
    in_every_trace: bool = False
    name: str = ""
    type: Any = None
    default: Any = None

    @property
    def kind(self) -> Any:
        """`type` without None: str, int, float, bool or tuple; str for a choice."""
        plain = next(each for each in (*_members(self.type), self.type) if each is not types.NoneType)
        return str if self.choices else get_origin(plain) or plain

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a setting that takes one of few; empty for any other."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def optional(self) -> bool:
        return types.NoneType in _members(self.type)

    def largest(self, limits: Limits | None = None) -> float | None:
        """The largest number (most characters) that is allowed; None for none."""
        bounds = [self.most] if self.most is not None else []
        if limits is not None and self.limit:
            bounds.append(getattr(limits, self.limit))
        return min(bounds, default=None)

    def within(self, limits: Limits) -> Any:
        """The default, or the largest value that the owner allows where that is less."""
        largest = self.largest(limits)
        return self.default if largest is None or self.kind is str else min(self.default, self.kind(largest))

    def check(self, value: Any, limits: Limits | None = None) -> None:
        """Refuses a value of another type or out of bounds, the owner's among them where `limits` are given.

        Raises:
            RequestError: with what was given, what is possible, and the variable that bounds it.
        """
        if not (self.optional and value is None) and not self._allows(value, limits):
            raise RequestError(f"{self.name} is {shown(value)}; it must be {self.possible(limits)}")

    def possible(self, limits: Limits | None = None) -> str:
        """What it may be, in words; a bound that the owner set is followed by its variable."""
        words = {bool: "true or false", tuple: "names of sides", str: "text", int: "a whole number", float: "a number"}
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        largest = self.largest(limits)
        bound = self._bounds(largest) if largest is not None or self.least is not None else ""
        owners = limits is not None and self.limit and largest == getattr(limits, self.limit)
        variable = f" ({LIMIT_VARIABLE}{self.limit.upper()})" if owners else ""
        nothing = ", or nothing" if self.optional else ""
        return f"{'0 or ' if self.or_zero else ''}{words[self.kind]}{bound}{variable}{nothing}"

    def _bounds(self, largest: float | None) -> str:
        if self.kind is str:
            return f" of at most {largest:,} whole characters"
        least = f" above {self.least:,}" if self.open_below else f" from {self.least:,}"
        return f"{least} {'and at most' if self.open_below else 'to'} {largest:,}" if largest is not None else least

    def _allows(self, value: Any, limits: Limits | None) -> bool:
        if self.kind is tuple:
            return isinstance(value, tuple) and all(_is_text(each, NAME_CHARACTERS) for each in value)
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.kind is bool:
            return isinstance(value, bool)
        if self.kind is str:
            return _is_text(value, self.largest(limits))
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if self.kind is int else numbers.Real):
            return False
        return self._in_bounds(cast(float, value), self.largest(limits))

    def _in_bounds(self, value: float, largest: float | None) -> bool:
        """False for NaN; compares integers of any size."""
        if self.or_zero and value == 0:
            return True
        enough = self.least is None or (value > self.least if self.open_below else value >= self.least)
        return enough and (largest is None or value <= largest)


def declared(help: str, **rest: Any) -> Mapping[str, Setting]:
    """A field's metadata, with what `Setting` says of it."""
    return {"setting": Setting(help, **rest)}


@functools.cache
def settings_of(record: type[Any]) -> Mapping[str, Setting]:
    """The settings that a record declares, by name, in its order."""
    hints = get_type_hints(record)
    return {each.name: _complete(each.metadata["setting"], each, hints[each.name]) for each in fields(record)}


def _complete(setting: Setting, of: Any, hint: Any) -> Setting:
    limit = setting.limit or (of.name if of.name in {each.name for each in fields(Limits)} else "")
    default = None if of.default is MISSING else of.default
    complete = replace(setting, name=of.name, type=hint, default=default, limit=limit)
    return complete if complete.kind is not str or limit else replace(complete, most=NAME_CHARACTERS)


def shown(value: Any) -> str:
    """`value` as an error message may repeat it: short whatever it is, and encodable."""
    try:
        text = repr(value)
    except Exception:  # a number of thousands of digits, lists too deep
        return f"a {type(value).__name__} that cannot be written out"
    return text if len(text) <= 60 else text[:57] + "..."


def _is_text(value: Any, most: float | None) -> bool:
    """Whether it is text of at most `most` characters that can be encoded: half of a surrogate pair cannot."""
    if not isinstance(value, str) or (most is not None and len(value) > most):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _members(hint: Any) -> tuple[Any, ...]:
    """The types that a union joins; none of a plain type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
