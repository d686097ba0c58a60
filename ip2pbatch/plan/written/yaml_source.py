"""YAML that a person wrote, as data with the place of every key: each mistake is file:line:column: key: why.

The text is read as PyYAML's stream of events and nothing else of PyYAML: no tag is ever constructed, scalars follow
YAML 1.2's core schema (`no` and `on` are words, `12:30` is text, `010` is ten), and size, depth, aliases and
duplicate keys are checked while the events pass, before anything is built from them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ip2pbatch.errors import MAY_READ, RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ALIASES = 32
MAX_VALUES = 20_000  # aliases counted as often as they are used

Model = TypeVar("Model", bound=BaseModel)
Key = str | int

_PARSER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"(?:~|null|Null|NULL)?\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)\Z")


class Mistake(ValueError):  # noqa: N818 (it complains to pydantic, which raises the error)
    """A validator's complaint: why, what to do about it, and where below the value it looked at."""

    def __init__(self, why: str, *, hint: str | None = None, at: tuple[Key, ...] = ()) -> None:
        super().__init__(why)
        self.why, self.hint, self.at = why, hint, at


@dataclass(slots=True)
class _Node:
    value: Any
    line: int
    column: int
    values: int = 1
    children: dict[Key, _Node] = field(default_factory=dict)
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Locator:
    """Where things are in `file`: call it with a path of keys and indices, get (line, column) counted from 1."""

    file: Path
    root: _Node

    def known(self, path: Sequence[Key]) -> tuple[Key, ...]:
        """`path` without the parts that the file does not have: a shorthand leaves out what it stands for."""
        node, found = self.root, []
        for part in path:
            if part in node.children:
                node = node.children[part]
                found.append(part)
        return tuple(found)

    def given(self, path: Sequence[Key]) -> Any:
        """What the file has at `path`, as it was written; of the nearest thing around it where there is none."""
        node = self.root
        for part in self.known(path):
            node = node.children[part]
        return node.value

    def __call__(self, path: Sequence[Key], *, of_key: bool = False) -> tuple[int, int]:
        """The place of the value at `path`, or of its key; of the nearest thing around it where there is none."""
        node, key = self.root, None
        for part in self.known(path):
            key = node.keys.get(str(part)) if isinstance(part, str) and part == path[-1] else None
            node = node.children[part]
        return key if of_key and key else (node.line, node.column)


def read_yaml(path: Path) -> tuple[Any, Locator]:
    """The data of a YAML file and a Locator for it. Raises RecipeError for all that can be wrong with it."""
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, path: Path) -> tuple[Any, Locator]:
    """The same of a file's text, which was read already."""
    try:
        root = _Builder(path, yaml.parse(text, Loader=_PARSER)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        hint = "close every bracket and quote, indent with spaces, and quote a text that holds `: `, `#`, `{` or `[`"
        raise RecipeError(str(error.problem or error.context), file=path, line=line, column=column, hint=hint) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise RecipeError("a control character", file=path, line=line, column=column, hint="remove it") from None
    return root.value, Locator(path, root)


def validate(
    model: type[Model], data: Any, locate: Locator, *, context: Any = None, other_names: Mapping[str, str] | None = None
) -> Model:
    """`data` as a `model`; the first mistake in the file, with a hint, as a RecipeError that carries the others.

    `context` is pydantic's; `other_names` maps words from elsewhere to our keys, for the hint at an unknown key.
    """
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        every = [dict(one) for one in error.errors(include_url=False)]
        found = [_explain(model, one, locate, other_names or {}) for one in every if not _follows(one, every)]
    # A key that is misspelt is also missing under its right name: the misspelling comes first.
    first, *more = sorted(found, key=lambda one: (one.line, "is missing" in str(one), one.column))
    first.more = tuple(more)
    raise first from None


def suggest(word: str, known: Sequence[str]) -> str | None:
    """'did you mean …?' where one of `known` is near, else None."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else None


def read_text(path: Path) -> str:
    """The text of a file that a person wrote, UTF-8. Raises RecipeError where it is none, or too large to be one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _too_large(path)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError("no such file", file=path, hint=_neighbour(path)) from None
    except IsADirectoryError:
        raise RecipeError("is a folder, not a file", file=path, hint="give the YAML file itself") from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=path, hint=MAY_READ) from None
    if len(raw) > MAX_BYTES:
        raise _too_large(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise RecipeError("not UTF-8 text", file=path, line=line, column=column, hint="save it as UTF-8") from None


def _too_large(path: Path) -> RecipeError:
    why = f"larger than {MAX_BYTES >> 20} MiB, which no recipe is"
    return RecipeError(why, file=path, hint="give the YAML file itself")


def _neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1, cutoff=0.5)
    return f"did you mean {path.parent / near[0]}?" if near else "check the path"


class _Builder:
    """One document of events, as nodes. It keeps what may be used once only: aliases, values, anchors."""

    def __init__(self, path: Path, events: Iterator[yaml.Event]) -> None:
        self.path, self.events = path, events
        self.anchors: dict[str, _Node | None] = {}
        self.aliases = 0
        self.values = 0

    def document(self) -> _Node:
        next(self.events)  # the start of the stream
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return _Node(None, 1, 1)
        root = self.node(next(self.events), 0)
        next(self.events)  # the end of the document
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.error(event, "a second document (after ---)", hint="one file is one document: split it")
        return root

    def node(self, event: yaml.Event, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if depth > MAX_DEPTH:
            raise self.error(event, f"nested more than {MAX_DEPTH} levels deep", hint="no recipe is: write it flatter")
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor:
            self.anchors[event.anchor] = None  # until it is complete, so that it cannot hold itself
        if isinstance(event, yaml.ScalarEvent):
            node = self.place(event, self.scalar(event))
        elif isinstance(event, yaml.MappingStartEvent):
            node = self.mapping(event, depth)
        else:
            node = self.sequence(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def mapping(self, event: yaml.Event, depth: int) -> _Node:
        self.refuse_tag(event)
        node = self.place(event, {})
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise self.error(key, "a key must be a plain word", hint="put text with [ or { in it in quotes")
            name: str = key.value
            if name in node.keys:
                line, _ = node.keys[name]
                raise self.error(key, f"given twice; first on line {line}", key=name, hint="keep one of them")
            node.keys[name] = _start(key)
            self.add(node, name, self.node(next(self.events), depth + 1))
        return node

    def sequence(self, event: yaml.Event, depth: int) -> _Node:
        self.refuse_tag(event)
        node = self.place(event, [])
        while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
            self.add(node, len(node.value), self.node(item, depth + 1))
        return node

    def add(self, parent: _Node, key: Key, child: _Node) -> None:
        if isinstance(parent.value, dict):
            parent.value[key] = child.value
        else:
            parent.value.append(child.value)
        parent.children[key] = child
        parent.values += child.values

    def alias(self, event: yaml.Event) -> _Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise self.error(event, f"more than {MAX_ALIASES} aliases (*name)", hint="write some of them out")
        name = getattr(event, "anchor", "")
        node = self.anchors.get(name)
        if node is None:
            why = "an alias within itself" if name in self.anchors else f"no anchor &{name} before this"
            raise self.error(event, why, hint="write the value out; text that begins with * needs quotes")
        self.count(event, node.values)
        return node

    def place(self, event: yaml.Event, value: Any) -> _Node:
        self.count(event, 1)
        return _Node(value, *_start(event))

    def count(self, event: yaml.Event, values: int) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            why = f"more than {MAX_VALUES:,} values, aliases spelled out"
            raise self.error(event, why, hint="split the recipe; many instructions fit in a CSV")

    def scalar(self, event: yaml.ScalarEvent) -> str | int | float | bool | None:
        text: str = event.value
        if event.tag is not None:
            self.refuse_tag(event)
        return (
            _resolve(text, lambda why: self.error(event, why, hint="put it in quotes")) if event.implicit[0] else text
        )

    def refuse_tag(self, event: yaml.Event) -> None:
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise self.error(event, f"the tag {tag!r} is not read", hint="remove it; plain YAML values are enough")

    def error(self, event: yaml.Event, why: str, *, hint: str, key: str = "") -> RecipeError:
        line, column = _start(event)
        return RecipeError(why, file=self.path, line=line, column=column, key=key, hint=hint)


def _start(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _resolve(text: str, error: Any) -> str | int | float | bool | None:
    """A plain scalar by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema)."""
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text[0] in "tT"
    if _NAN.match(text):
        return float("nan")
    if not (_INT.match(text) or _FLOAT.match(text)):
        return text
    if len(text) > 64:
        raise error("a number of more than 64 digits")
    if _INT.match(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf"))


def _follows(one: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> bool:
    """Whether pydantic finds a list empty only because it left out the items that are mistakes themselves."""
    path = tuple(one["loc"])
    return one["type"] == "too_short" and any(other["loc"][: len(path)] == path for other in every if other is not one)


def _explain(
    model: type[BaseModel], one: Mapping[str, Any], locate: Locator, other_names: Mapping[str, str]
) -> RecipeError:
    """One of pydantic's errors in our words, at its place in the file."""
    path = tuple(one["loc"])
    cause = one.get("ctx", {}).get("error")
    at_key = one["type"] == "extra_forbidden"
    if isinstance(cause, Mistake):
        path += cause.at
        why, hint, at_key = cause.why, cause.hint, bool(cause.at)
    elif one["type"] == "extra_forbidden":
        word = str(path[-1])
        why, hint = "unknown key", _meant(word, _keys_at(model, path[:-1]), other_names)
    else:
        why, hint = reword(one)
        if one["type"] == "model_type" and one["input"] is not None and (keys := _keys_at(model, path)):
            hint = f"its keys are {', '.join(keys)}"
    line, column = locate(path, of_key=at_key)
    why = why[:1].lower() + why[1:]
    return RecipeError(why, file=locate.file, line=line, column=column, key=_dotted(locate.known(path)), hint=hint)


def _meant(word: str, known: Sequence[str], other_names: Mapping[str, str]) -> str:
    if word in other_names:
        return f"here it is {other_names[word]}"
    return suggest(word, known) or f"known are: {', '.join(known)}"


_ADVICE = {
    "string_type": "put it in quotes", "string_too_short": "fill it, or leave the key out",
    "int_type": "write it in digits and without quotes: 20", "int_from_float": "write it without decimals: 20",
    "float_type": "write a number, with a point: 0.5", "float_parsing": "write a number, with a point: 0.5",
    "bool_type": "write true or false", "list_type": "write a list: [a, b]", "tuple_type": "write a list: [a, b]",
}  # fmt: skip


def reword(one: Mapping[str, Any]) -> tuple[str, str | None]:
    """Why and hint for one of pydantic's own complaints."""
    kind, given = one["type"], one["input"]
    if kind == "missing":
        return f"{one['loc'][-1]!r} is missing", f"write it: `{one['loc'][-1]}: …`"
    if kind in ("literal_error", "enum"):
        choices = re.findall(r"'([^']*)'", one["ctx"]["expected"])
        near = suggest(given, choices) if isinstance(given, str) else None
        return f"{given!r} is not one of {', '.join(choices)}", near or "write one of these"
    if kind == "string_type" and isinstance(given, (int, float, bool)):
        return f"{given!r} is not text", "put it in quotes"
    if kind in ("model_type", "dict_type"):
        return (
            "is empty" if given is None else "should be a mapping of keys to values",
            "write `key: value` lines below it",
        )
    why = str(one["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    return why, _ADVICE.get(kind, "change it, or leave the key out where a default will do")


def _dotted(path: Sequence[Key]) -> str:
    return ".".join(str(part) for part in path)


def _keys_at(model: type[BaseModel], path: Sequence[Key]) -> list[str]:
    """The keys that are known where `path` leads within `model`, following every model that a field may hold."""
    models = [model]
    for part in path:
        fields = [found.model_fields[part] for found in models if isinstance(part, str) and part in found.model_fields]
        if fields:
            models = [inner for info in fields for inner in _models_in(info.annotation)]
    written = [(info.alias or name for name, info in found.model_fields.items()) for found in models]
    return sorted({*chain(*written), *chain(*(getattr(found, "ALSO_WRITTEN", ()) for found in models))})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _models_in(argument)]
