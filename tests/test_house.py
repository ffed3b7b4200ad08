"""Imports point down: neither the packages nor the files of `ssod` import each other in a circle.

Only imports that run when a module is loaded count. Imports inside functions, and those for type
checkers alone, are free.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Dict, Iterator, List, Set

import pytest

ROOT = Path(__file__).parent.parent / "projects" / "ssod"


def module_name(path: Path) -> str:
    """`engine/__init__.py` is `engine`, `engine/loop.py` is `engine.loop`."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES: Dict[str, Path] = {module_name(path): path for path in ROOT.rglob("*.py")}


def loaded_statements(body: List[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is loaded, without those for type checkers."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from loaded_statements(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from loaded_statements(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from loaded_statements(handler.body)


def imports(source: str, known: Set[str]) -> Set[str]:
    """Modules of `ssod`, of those that are known, that a source text imports when it is loaded."""
    found = set()
    for node in loaded_statements(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                # `from ssod.engine import loop` names a module, `from ssod.engine.loop import X` a
                # name in one.
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole.removeprefix("ssod.") in known else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    found = {name.removeprefix("ssod.") for name in found if name.startswith("ssod.")}
    unknown = found - known
    assert not unknown, f"imports of modules that do not exist: {unknown}"
    return found


GRAPH = {
    name: imports(path.read_text(encoding="utf-8"), set(FILES)) for name, path in FILES.items()
}


def circle(graph: Dict[str, Set[str]]) -> List[str]:
    """One circle of a graph, in the order of its imports; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_packages_import_downwards() -> None:
    packages: Dict[str, Set[str]] = {}
    for name, found in GRAPH.items():
        top = name.split(".")[0]
        packages.setdefault(top, set()).update({f.split(".")[0] for f in found} - {top})
    assert len(packages) > 10
    assert circle(packages) == []


def test_files_import_downwards() -> None:
    assert circle(GRAPH) == []


def test_no_relative_imports() -> None:
    """They would escape the two tests above."""
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), name


@pytest.mark.parametrize(
    "source, expected",
    [
        ("from ssod.engine import loop", {"engine.loop"}),
        ("from ssod.engine.loop import TrainLoop", {"engine.loop"}),
        ("try:\n    import ssod.engine.loop\nexcept ImportError:\n    pass", {"engine.loop"}),
        ("class A:\n    from ssod.engine import setup", {"engine"}),
        ("def f():\n    from ssod.engine import loop", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ssod.engine.loop", set()),
        ("import ssod\nimport torch", set()),
    ],
)
def test_what_counts_as_an_import(source: str, expected: Set[str]) -> None:
    assert imports(source, {"engine", "engine.loop"}) == expected


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    found = circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert found[0] == found[-1] and set(found) == {"a", "b", "c"}
