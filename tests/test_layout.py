"""The folders, sizes and allowed imports of modules."""

import ast
import pathlib

import mixer_jax

ROOT = pathlib.Path(mixer_jax.__file__).parent
# Data flows left to right: a folder imports only from folders to its left.
ORDER = (
    "runtime",
    "search",
    "categories",
    "data",
    "demo",
    "models",
    "proxies",
    "training",
    "compiled",
    "retrieval",
    "service",
    "experiments",
    "reports",
)
MAX_MODULES = 16  # per folder
MAX_LINES = 400  # per module
CONFIGS = "configs"  # a link to the folder next to the package


def _files():
    return [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if CONFIGS not in path.relative_to(ROOT).parts
    ]


def _name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in _files()}


def _imported(path):
    """Returns the package's modules imported at a module's top level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        package, _, rest = node.module.partition(".")
        if package != "mixer_jax":
            continue
        for alias in node.names:
            name = ".".join(filter(None, (rest, alias.name)))
            found.add(name if name in MODULES else rest)
    return found & MODULES.keys() - {""}


IMPORTS = {name: _imported(path) for name, path in MODULES.items()}


def _folder(name):
    return name.partition(".")[0]


def test_every_folder_is_in_the_order():
    folders = {_folder(name) for name in MODULES if "." in name}
    assert folders == set(ORDER)


def test_folders_import_only_from_the_left():
    wrong = [
        (name, other)
        for name, others in IMPORTS.items()
        for other in others
        if "." in name
        and (
            _folder(other) not in ORDER
            or ORDER.index(_folder(other)) > ORDER.index(_folder(name))
        )
    ]
    assert not wrong


def test_nothing_imports_a_command():
    commands = {
        name
        for name, path in MODULES.items()
        if "." not in name and '__name__ == "__main__"' in path.read_text()
    }
    assert len(commands) > 8
    wrong = {name: others & commands for name, others in IMPORTS.items()}
    assert not {name: found for name, found in wrong.items() if found}


def test_imports_have_no_cycles():
    done, path = set(), []

    def visit(name):
        assert name not in path, [*path[path.index(name) :], name]
        if name in done:
            return
        path.append(name)
        for other in sorted(IMPORTS[name]):
            visit(other)
        done.add(path.pop())

    for name in sorted(MODULES):
        visit(name)


def test_folders_and_modules_are_small():
    for folder in {path.parent for path in MODULES.values()}:
        count = len([p for p in folder.glob("*.py") if p.stem != "__init__"])
        assert count <= MAX_MODULES, folder
    for path in MODULES.values():
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, (path, lines)


def test_every_folder_has_a_docstring():
    for folder in {path.parent for path in MODULES.values()}:
        text = (folder / "__init__.py").read_text()
        assert ast.get_docstring(ast.parse(text)), folder
