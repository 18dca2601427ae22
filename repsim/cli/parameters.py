"""The parameters that a notebook declares in its parameter cell, and the typed texts that set them.

A cell tagged `parameters` holds lines `name: type = value  # help`, whose types are Python's own or of
`repsim.cli.kinds`. A text from the command line or from a
YAML file becomes a value of the declared type, or is refused: the type decides what `1e5`, `007` and `on`
mean, where YAML alone would guess.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_origin

import yaml

from repsim.cli.kinds import KINDS, Kind, at_least_one

SCALARS = {"str": str, "int": int, "float": float, "bool": bool}
EXPECTED = {
    str: "one text",
    int: "a whole number such as 3",
    float: "a number such as 0.5 or 1e-3",
    bool: "true or false",
    list: "in YAML, such as [a, b]",
    dict: "in YAML, such as {epochs: 40}",
}


class RequestError(ValueError):
    """The error of a request that cannot be run as it stands."""


@dataclass(frozen=True)
class Parameter:
    """One line `name: type = value  # help` of the cell tagged `parameters`."""

    name: str
    type: str
    kind: object  # the type itself: `int`, `list[str]`, `str | None`, a `Kind`
    default: object
    help: str

    def value(self, text: object, notebook: str) -> object:
        """The value that a text (see `convert`) gives this parameter of a notebook, or a RequestError."""
        try:
            value = convert(text, self.kind)
        except ValueError as error:
            hint = EXPECTED.get(get_origin(self._base) or self._base)
            wanted = f"{self.type} ({hint})" if hint else self.type
            raise RequestError(
                f"parameter {self.name!r} of {notebook} must be {wanted}, not {text!r}"
            ) from error
        try:
            for kind, part in self.parts(value):
                kind(part)
        except ValueError as error:
            raise RequestError(f"parameter {self.name!r} of {notebook}: {error}") from error
        return value

    def parts(self, value: object) -> list[tuple[Kind, object]]:
        """The parts of a value of the types of `repsim.cli.kinds`, each with its own."""
        found: list[tuple[Kind, object]] = []
        for kind in self.kinds:
            of_items = kind in get_args(self._base)
            found += [(kind, each) for each in value] if of_items else [(kind, value)]
        return found

    @property
    def kinds(self) -> list[Kind]:
        """The type, and that of a list's items, if they are of `repsim.cli.kinds`."""
        return [kind for kind in (self.kind, *get_args(self._base)) if isinstance(kind, Kind)]

    @property
    def _base(self) -> object:
        return self.kind.base if isinstance(self.kind, Kind) else self.kind


@dataclass(frozen=True)
class Notebook:
    """A notebook file as it was read, and the parameters that it declares."""

    path: Path
    content: dict
    parameters: dict[str, Parameter]

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """Read a notebook and its parameter cell, without the packages that take long to import.

        Raises
        ------
        RequestError
            The file is no notebook, or its parameter cell does more than declare.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            cells = [(cell, source_of(cell)) for cell in content["cells"]]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise RequestError(f"{path} cannot be read as a notebook: {reason}") from error
        tagged = [source for cell, source in cells if is_tagged(cell, "parameters")]
        return cls(path, content, read_cell(tagged[0], path.stem) if tagged else {})

    @property
    def defaults(self) -> dict[str, object]:
        """The values that the parameter cell gives."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def values(self, given: Mapping[str, object]) -> dict[str, object]:
        """Those of the given texts whose parameter is declared here, as values of its type.

        Raises
        ------
        RequestError
            Texts do not read as the declared type, or are no values that it allows: all of them are told.
        """
        values, wrong = {}, []
        for name, parameter in self.parameters.items():
            if name in given:
                try:
                    values[name] = parameter.value(given[name], self.path.stem)
                except RequestError as error:
                    wrong.append(str(error))
        if wrong:
            raise RequestError("\n".join(wrong))
        return values

    def listing(self) -> str:
        """Name and title (the first heading), then one line per parameter: name, type, default and help."""
        prose = "\n".join(
            source_of(cell) for cell in self.content["cells"] if cell["cell_type"] == "markdown"
        )
        heading = re.search(r"^#+\s+(.+?)\s*$", prose, re.MULTILINE)
        lines = [f"{self.path.stem}  {heading[1] if heading else ''}"]
        declared = {f"{each.name}: {each.type} = {each.default!r}": each for each in self.parameters.values()}
        width = max(map(len, declared), default=0)
        lines += [f"    {declaration:<{width}}  {each.help}" for declaration, each in declared.items()]
        return "\n".join(line.rstrip() for line in lines)


def is_tagged(cell: Mapping, tag: str) -> bool:
    """Whether a notebook's cell carries a tag."""
    return tag in cell.get("metadata", {}).get("tags", [])


def source_of(cell: Mapping) -> str:
    """The text of a cell, which files hold in lines."""
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def read_cell(source: str, notebook: str) -> dict[str, Parameter]:
    """Read the source of a parameter cell.

    Raises
    ------
    RequestError
        A line is not `name: type = value`: a parameter cell declares, and derives nothing.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise RequestError(
            f"line {error.lineno} of the parameters of {notebook} is not Python: {error.msg}"
        ) from error
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    parameters = {}
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            continue  # types are names that need not be there
        try:
            parameter = _declaration(statement, comments.get(statement.end_lineno, ""))
        except (ValueError, TypeError) as error:  # of a type, of a value such as {[]: 1}
            raise RequestError(
                f"line {statement.lineno} of the parameters of {notebook} is `{ast.unparse(statement)}`; "
                "every line must be `name: type = value  # help` with a plain value and a type made of "
                "str, int, float, bool, dict, None, list[…], | and the names in repsim/cli/kinds.py"
            ) from error
        parameters[parameter.name] = parameter
    return parameters


def _declaration(statement: ast.stmt, comment: str) -> Parameter:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
            default = ast.literal_eval(value)
            return Parameter(name, ast.unparse(annotation), _kind(annotation), default, comment.lstrip("# "))
    raise ValueError("not a declaration")


def _kind(annotation: ast.expr) -> object:
    """The type that an annotation of a parameter cell names."""
    match annotation:
        case ast.Name(id="dict"):
            return dict
        case ast.Name(id=name) if name in SCALARS:
            return SCALARS[name]
        case ast.Name(id=name) if name in KINDS:
            return KINDS[name]
        case ast.Subscript(value=ast.Name(id="OrEmpty"), slice=ast.Name(id=name)) if name in KINDS:
            return KINDS[name].or_empty()
        case ast.Subscript(value=ast.Name(id="NonEmptyList"), slice=ast.Name(id=name)) if name in KINDS:
            return at_least_one(KINDS[name])
        case ast.Constant(value=None):
            return types.NoneType
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return list[_kind(inner)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _kind(left) | _kind(right)
    raise ValueError(f"unknown type {ast.unparse(annotation)}")


# -- from typed texts to values -----------------------------------------------------------------------------


class Quoted(str):
    """A text that stood between quotes in YAML: a string and nothing else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f'"{self}"'


class _Texts(yaml.BaseLoader):
    """YAML whose scalars stay as they were typed, but for null, which is None; no name stands twice."""

    def construct_scalar(self, node: yaml.ScalarNode) -> str | None:  # type: ignore[override]
        text = super().construct_scalar(node)
        if node.style is not None:
            return Quoted(text)
        return None if text in ("", "~", "null") else text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [str(self.construct_object(name, deep=True)) for name, _ in node.value]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise yaml.YAMLError(f"{' and '.join(twice)} stands there more than once")
        mapping = super().construct_mapping(node, deep)
        return dict(zip(names, mapping.values(), strict=True))


def _load(text: str) -> object:
    """YAML as nested texts; a ValueError when it is not YAML."""
    try:
        return yaml.load(text, _Texts)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _with_quotes(text: str) -> str:
    """A YAML mapping of files, with quotes around what YAML would take apart.

    A file may be called `lr=0.1,wd=5e-4/best.pt`, in which YAML finds two names, or `a: b.pt`; and a class
    of somebody's own may have several arguments, `mymodule:Net(width=4, depth=2)`.
    """
    if not text.lstrip().startswith("{"):
        return text
    text = re.sub(r"(?<=[\s:])[\w.]+:\w+\([^(){}'\"]*\)", lambda call: json.dumps(call[0]), text)
    depth, is_name, found, at = 0, False, "", 0
    while at < len(text):
        character = text[at]
        if is_name and not character.isspace():
            is_name = False
            ends = [end for end in range(len(text), at, -1) if re.match(r"\s*[:,}]", text[end:])]
            if end := next((each for each in ends if _is_file(text[at:each])), 0):
                found += json.dumps(text[at:end], ensure_ascii=False)
                at = end
                continue
        if character in "\"'" and (end := text.find(character, at + 1) + 1):  # what is quoted stays so
            found += text[at:end]
            at = end
            continue
        depth += (character in "{[") - (character in "}]")
        is_name = is_name or (depth == 1 and character in "{,")
        found += character
        at += 1
    return found


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long a name, or no name at all
        return False


def read_file(path: Path) -> dict[str, object]:
    """Read a YAML file of parameters, its scalars as the texts that were typed.

    Raises
    ------
    RequestError
        The file cannot be read, or is no mapping of names to values.
    """
    try:
        content = _load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"the parameter file {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(f"the parameter file {path} must hold lines `name: value`")
    return content


def convert(value: object, kind: object) -> object:
    """Turn a text, or nested lists of texts, into a value of the declared type.

    Parameters
    ----------
    value
        What was typed: a string, None for YAML's null, or a list or mapping of these (as such, or as YAML
        text).
    kind
        `str`, `int`, `float`, `bool`, `list[…]`, `dict`, a union of these with None; or a `Kind`. What is in
        a `dict` has no declared type: plain texts are what they look like.

    Raises
    ------
    ValueError
        The text does not read as that type.
    """
    if isinstance(kind, Kind):
        if kind.name == "Checkpoints" and type(value) is str:
            value = {value: None} if _is_file(value) else _with_quotes(value)
        return convert(value, kind.base)
    if isinstance(kind, types.UnionType):
        for member in sorted(get_args(kind), key=lambda member: member is str):  # any text is a str: last
            with suppress(ValueError):
                return convert(value, member)
    elif kind is str and isinstance(value, str):
        return str(value)
    elif kind is types.NoneType and value is None:
        return None
    elif get_origin(kind) is list and isinstance(value, list):
        return [convert(item, *get_args(kind)) for item in value]
    elif kind is dict and isinstance(value, dict):
        return _resolved(value)
    elif type(value) is str:  # neither quoted nor null nor a list
        if get_origin(kind) is list:
            loaded = _load(value)
            if isinstance(loaded, list):
                return convert(loaded, kind)
        elif kind is dict:
            loaded = _load(value)
            if isinstance(loaded, dict):
                return _resolved(loaded)
        elif kind is types.NoneType and value in ("null", "None"):
            return None
        elif kind is bool and value.lower() in ("true", "false"):
            return value.lower() == "true"
        elif kind in (int, float):
            with suppress(ValueError):
                return kind(value)
    raise ValueError(f"{value!r} is not {kind}")


def _resolved(value: object) -> object:
    """A value below a mapping: plain texts as numbers and truth values where they are written so."""
    if isinstance(value, dict):
        return {name: _resolved(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each) for each in value]
    if type(value) is not str:  # null, or quoted
        return value if value is None else str(value)
    for kind in (bool, int, float):
        with suppress(ValueError):
            return convert(value, kind)
    return value
