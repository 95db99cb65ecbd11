"""include/platform/<name>.yaml -> Platform, or one error that names all that is wrong with the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import dbops
from dbops.platform.fields import PlatformError
from dbops.platform.model import Platform

if TYPE_CHECKING:
    import yaml

DIRECTORY = Path(dbops.__file__).parents[2] / "include" / "platform"
VARIABLE = "DBOPS_PLATFORM"
DEFAULT = "production"

_loaded: dict[Path, tuple[tuple[int, ...], Platform]] = {}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `line` is None when the file as a whole is."""

    path: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line else ""
        return f"{self.path}: {self.reason}{where}" if self.path else f"{self.reason}{where}"


class PlatformFileError(PlatformError):
    """A platform file that cannot be used; `problems` are all that were found."""

    def __init__(self, file: Path, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{file.name}: {problem}" for problem in problems))


def load_platform(path: Path | None = None) -> Platform:
    """The platform of a file; without one, of `DBOPS_PLATFORM`: a file, or a name in include/platform.

    Read once per process and again when the file changes.

    :raises PlatformFileError: the file is missing or wrong; the message has a line for each problem.
    """
    file = (path or platform_file(os.environ.get(VARIABLE, "").strip() or DEFAULT)).absolute()
    try:
        found = file.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        known = _loaded.get(file)
        if known and known[0] == stamp:
            return known[1]
        text = file.read_bytes()
    except OSError as error:
        raise PlatformFileError(file, [Problem("", _unreadable(file, error))]) from None
    platform = parse(file, text)
    _loaded[file] = (stamp, platform)
    return platform


def platform_file(name: str) -> Path:
    """The file that `DBOPS_PLATFORM` or `--file` means: a path, or a name in include/platform."""
    return Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else DIRECTORY / f"{name}.yaml"


def _unreadable(file: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        names = ", ".join(sorted(other.stem for other in file.parent.glob("*.yaml"))) or "no other"
        return (
            f"no such file in {file.parent} (there: {names}); set {VARIABLE} to a name in include/platform or to a file"
        )
    return f"cannot be read from {file.parent}: {error.strerror}"


def parse(file: Path, text: bytes) -> Platform:
    """Validate the content of a platform file; its name without the suffix is the platform's.

    :raises PlatformFileError: all that is wrong with it.
    """
    import yaml  # here, so that `import dbops.platform` stays cheap

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        try:
            root: yaml.Node | None = loader.get_single_node()
            if root is None:
                raise PlatformFileError(file, [Problem("", "is empty; compare with production.yaml")])
            problems = list(_duplicates(root, (), set()))
            data = loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise PlatformFileError(file, [_not_yaml(error)]) from None
    except (RecursionError, ValueError) as error:
        raise PlatformFileError(file, [Problem("", f"is no YAML that can be used: {error}")]) from None
    if not isinstance(data, dict):
        reason = f"must be a mapping with storage, aerospike, ... at the top, and is a {type(data).__name__}"
        raise PlatformFileError(file, [Problem("", reason)])
    for key in ("name", "sha256"):
        if key in data:
            problems.append(
                Problem(key, "is taken from the file, and must not be written into it", _line(root, (key,)))
            )
    facts = {"name": file.stem, "sha256": hashlib.sha256(text).hexdigest()}
    try:
        platform = Platform.model_validate({**data, **facts})
    except ValidationError as error:
        problems += [_problem(found, root) for found in error.errors(include_url=False)]
    if problems:
        raise PlatformFileError(file, sorted(problems, key=lambda problem: problem.line or 0))
    return platform


def _not_yaml(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    return Problem("", f"is no valid YAML: {f'{context}: ' if context else ''}{reason}", mark and mark.line + 1)


def _duplicates(node: yaml.Node, path: tuple[str | int, ...], seen: set[int]) -> Iterator[Problem]:
    """Keys that stand twice in one mapping: YAML would silently take the last."""
    from yaml import MappingNode, SequenceNode

    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in first and name != "<<":
                yield Problem(_dotted((*path, name)), f"stands twice, first in line {first[name]}", line)
            first.setdefault(name, line)
            yield from _duplicates(value, (*path, name), seen)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, (*path, index), seen)


def _problem(found: Mapping[str, Any], root: yaml.Node) -> Problem:
    path = tuple(part for part in found["loc"] if part != "[key]")
    return Problem(_dotted(path), _reason(found), _line(root, path))


def _reason(found: Mapping[str, Any]) -> str:
    kind = found["type"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is no key that is known here"  # its value is not repeated: it could be a secret
    reason = str(found["msg"]).removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    value = found.get("input")
    if isinstance(value, str | int | float | bool):
        shown = repr(value)
        return f"{shown if len(shown) <= 60 else shown[:57] + '...'}: {reason}"
    return reason


def _dotted(path: Sequence[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _line(root: yaml.Node, path: Sequence[str | int]) -> int:
    """Line of the deepest part of the path that stands in the file."""
    from yaml import MappingNode, SequenceNode

    node, line = root, root.start_mark.line + 1
    for part in path:
        if isinstance(node, MappingNode):
            pair = next(((key, value) for key, value in reversed(node.value) if key.value == part), None)
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            pair = (node.value[part], node.value[part])
        else:
            pair = None
        if pair is None:
            break
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line
