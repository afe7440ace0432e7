"""The shape of the code, read from its syntax trees: imports point one way, the front door is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import implicit_layers

ROOT = Path(__file__).resolve().parents[1]
QP_CONTRACT = {
    *("solve_qp", "QPLayer", "OptNetLayer", "QPProblem", "QPSolution", "SolveStatus"),
    *("Implicit", "Unrolled", "InteriorPoint", "CvxpyLayer", "ProblemError", "SolverError", "SolverWarning"),
}
# A module may import from its own level and from those above it in this list.
LEVELS = [
    {"algebra", "checks", "errors", "status", "solution", "transforms", "functions", "unknowns"},
    {"linear", "jacobian", "krylov"},
    {"implicit", "condition", "copies", "iterations"},
    {"differentiation"},
    {"qp", "nonlinear", "root", "fixed_point", "argmin", "constrained", "sqp", "projections"},
]
DIFFERENTIATION_RULES = {"implicit", "condition", "differentiation", "qp.gradients"}
SOLVERS = {"qp.interior_point", "qp.sparse", "qp.native", "iterations"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: str) -> dict[str, Path]:
    paths = sorted((ROOT / package).rglob("*.py"))
    # Hidden folders are not ours: benchmarks/.envs holds the peers.
    return {module_name(path): path for path in paths if "/." not in path.relative_to(ROOT).as_posix()}


class Imports(ast.NodeVisitor):
    """All modules that a file imports, also inside functions; not those under `if TYPE_CHECKING`."""

    def __init__(self, name: str, path: Path, known: set[str]):
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.known, self.found = known, set()
        self.visit(ast.parse(path.read_text()))

    def visit_If(self, node):
        if "TYPE_CHECKING" in ast.unparse(node.test):
            for part in node.orelse:
                self.visit(part)
        else:
            self.generic_visit(node)

    def visit_Import(self, node):
        self.found.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node):
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            self.found.add(inner if inner in self.known else base)


def import_graph(package: str) -> dict[str, set[str]]:
    """Which modules of implicit_layers each module of the package imports."""
    known = set(modules("implicit_layers"))
    return {
        name: {found for found in Imports(name, path, known).found if found.split(".")[0] == "implicit_layers"}
        for name, path in modules(package).items()
    }


def inside(name: str) -> str:
    return name.removeprefix("implicit_layers").removeprefix(".")


def level(name: str) -> int:
    top = inside(name).split(".")[0]
    return next((i for i, names in enumerate(LEVELS) if top in names), len(LEVELS))


def belongs(name: str, group: set[str]) -> bool:
    return any(inside(name) == member or inside(name).startswith(f"{member}.") for member in group)


def test_imports_point_one_way():
    edges = [(name, other) for name, others in import_graph("implicit_layers").items() for other in others]
    assert edges
    wrong = [f"{a} imports {b}" for a, b in edges if a != "implicit_layers" and level(a) < level(b)]
    assert not wrong


def test_no_module_imports_itself_by_a_detour():
    graph = import_graph("implicit_layers")
    waiting = {name: {o for o in others if o in graph and o != name} for name, others in graph.items()}
    while waiting:
        free = [name for name, others in waiting.items() if not others & waiting.keys()]
        assert free, f"a circle of imports among {sorted(waiting)}"
        for name in free:
            del waiting[name]


def test_no_solver_imports_a_differentiation_rule_and_no_rule_a_solver():
    graph = import_graph("implicit_layers")
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if (belongs(name, SOLVERS) and belongs(other, DIFFERENTIATION_RULES))
        or (belongs(name, DIFFERENTIATION_RULES) and belongs(other, SOLVERS))
    ]
    assert not wrong
    assert any(belongs(name, SOLVERS) for name in graph)
    assert any(belongs(name, DIFFERENTIATION_RULES) for name in graph)


@pytest.mark.parametrize("package", ["robotics", "benchmarks", "examples"])
def test_users_of_the_toolkit_come_in_by_the_front_door(package):
    wrong = [
        f"{name} imports {other}"
        for name, others in import_graph(package).items()
        for other in others
        if other != "implicit_layers" and inside(other) not in implicit_layers.__all__
    ]
    assert not wrong


def test_the_toolkit_does_not_know_the_robots():
    known = set(modules("implicit_layers"))
    for name, path in modules("implicit_layers").items():
        assert not {f.split(".")[0] for f in Imports(name, path, known).found} & {"robotics", "benchmarks"}


def test_the_front_door_lists_exactly_what_it_imports():
    tree = ast.parse((ROOT / "implicit_layers" / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    listed = implicit_layers.__all__
    assert len(listed) == len(set(listed))
    assert {name for name in imported if not name.startswith("_")} == set(listed)
    assert all(hasattr(implicit_layers, name) for name in listed)


def test_every_name_of_the_qp_contract_is_exported():
    assert set(implicit_layers.__all__) >= QP_CONTRACT
