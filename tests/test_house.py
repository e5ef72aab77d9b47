"""The house: who imports whom, how large its parts are, and that an installation takes no name but `evagen`."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LIBRARIES = ("kernels", "tokenizer", "ar_model", "eval")
LEVELS = [  # from the ground up: a room imports from lower levels only
    {"annotations", "errors", "kernels"},
    {"config", "tokenizer", "ar_model", "eval"},
    {"run"},
    {"models"},
    {"data"},
    {"training", "sampling"},
    {"scoring"},
    {"report", "bench"},
    {"commands"},
    {"demo"},
    {"cli"},
    {"__main__"},
]


def modules() -> dict[str, Path]:
    """Every module of the package by its name; the libraries by their own folders, not by the links."""
    paths = [*(ROOT / "evagen").glob("*.py")]
    for folder in [*(ROOT / "evagen").iterdir(), *(ROOT / name for name in LIBRARIES)]:
        if folder.is_dir() and not folder.is_symlink():
            paths += folder.rglob("*.py")
    found = {}
    for path in paths:
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        parts = parts if parts[0] == "evagen" else ["evagen", *parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, known: dict[str, Path]) -> set[str]:
    """The project's modules that a module imports anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(known[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return {each for each in found if each in known and each != name}


def room_of(module: str) -> str:
    return [*module.split("."), "evagen"][1]


MODULES = modules()
IMPORTS = {name: imports_of(name, MODULES) for name in MODULES}


def test_no_module_imports_itself_in_a_circle():
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above, name))
        if name not in done:
            for imported in IMPORTS[name]:
                visit(imported, (*above, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
    assert len(done) > 100


def test_no_room_imports_from_a_room_that_is_not_below_it():
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    wrong = [
        f"{name} imports {imported}"
        for name, all_imported in IMPORTS.items()
        for imported in all_imported
        if room_of(name) != room_of(imported)
        and imported != "evagen"  # the version
        and level[room_of(name)] <= level[room_of(imported)]
    ]
    assert wrong == []


def test_libraries_stand_on_kernels_alone():
    for name, imported in IMPORTS.items():
        room = room_of(name)
        if room in LIBRARIES:
            assert {room_of(each) for each in imported} <= {room, "kernels"}, name


def test_few_rooms_short_files_short_functions():
    places = [each for each in (ROOT / "evagen").iterdir() if not each.is_symlink()]
    rooms = [each for each in places if each.suffix == ".py" or any(each.glob("*.py"))]  # not the models in the box
    assert len(rooms) <= 16, sorted(each.name for each in rooms)
    for path in [*MODULES.values(), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


OPENERS = {"av", "Image", "os"}
"""Whose `open` reads no text."""


def test_nothing_switches_the_backend_of_a_notebook():
    """As choosing one for pyplot does: figures are drawn without it."""
    drawing = [name for name, path in modules().items() if "pyplot" in (text := path.read_text()) or "Agg" in text]
    assert drawing == []


def texts_without_encoding(code: str) -> list[int]:
    """The lines of calls that read or write text in the encoding of whoever's machine it is."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call) or any(each.arg == "encoding" for each in node.keywords):
            continue
        method, function = isinstance(node.func, ast.Attribute), node.func
        name = function.attr if method else getattr(function, "id", "")
        owner = getattr(function.value, "id", "") if method else ""
        if name in ("open", "fdopen") and not (name == "open" and owner in OPENERS):
            place = 0 if method and name == "open" else 1  # Path.open(mode), open(path, mode), os.fdopen(number, mode)
            modes = [*node.args[place : place + 1], *(each.value for each in node.keywords if each.arg == "mode")]
            if not any(isinstance(mode, ast.Constant) and "b" in mode.value for mode in modes):
                found.append(node.lineno)
        elif method and name in ("read_text", "write_text"):
            found.append(node.lineno)
    return found


def test_text_is_read_and_written_as_utf8_on_every_machine():
    assert texts_without_encoding(
        "path.read_text()\npath.write_text(x)\nopen(x)\nopen(x, 'w')\npath.open('a')\npath.open(mode='w')\n"
        "os.fdopen(3, 'w')\npath.open('rb')\nopen(x, 'wb')\nav.open(x)\npath.read_text(encoding='utf-8')\n"
    ) == [1, 2, 3, 4, 5, 6, 7]
    paths = [*MODULES.values(), *(ROOT / "docs").glob("*.py"), *(ROOT / "examples").glob("*.py"), ROOT / "setup.py"]
    wrong = {str(path): texts_without_encoding(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: lines for path, lines in wrong.items() if lines} == {}


# Installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # built there, since a folder `build` with older files would end up in the wheel
    unneeded = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unneeded)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(source),
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("evagen-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The Python of an environment that has the wheel, and this environment's other packages within reach. Their
    `.pth` files are not read there."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    (site,) = folder.glob("lib/*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"}
    return subprocess.run([str(python), *arguments], capture_output=True, text=True, cwd=folder, env=environment)


def test_a_wheel_holds_the_whole_project_under_one_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"evagen", "evagen_torchvision.pth"}
    for name in (
        "configs/quickstart/proxy.yaml",
        "report/report.html",
        "tokenizer/router.py",
        "eval/protocols.py",
        "demo/page.css",
        "py.typed",
        "__init__.pyi",
        "demo/clips/Frogger.mp4",
    ):
        assert f"evagen/{name}" in names
    box = [path for path in (ROOT / "evagen" / "box").rglob("*") if path.is_file()]
    assert {path.relative_to(ROOT).as_posix() for path in box} <= set(names)
    assert any(name.startswith("evagen/kernels/") and name.endswith(".c") for name in names)


def test_the_wheel_works_outside_the_checkout(installed, tmp_path):
    where = run(installed, "-c", "import evagen.tokenizer as t, torchvision; print(t.__file__)", folder=tmp_path)
    assert where.stdout.startswith(str(installed.parents[1])), where.stderr
    done = run(installed, "-m", "evagen", "configs", "quickstart/proxy", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    from tiny_corpus import write_corpus

    write_corpus(tmp_path / "corpus", num_clips=8)
    config = {
        "run": {"out": "run", "tracker": "none"}, "corpus": "corpus",
        "model": {"width": 32, "depth": 1, "num_heads": 2},
        "optimizer": {"steps": 2, "batch_size": 2, "learning_rate": 0.01},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = run(installed, "-m", "evagen", "train-generator", "config.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "diffusion_pytorch_model.safetensors").exists()


def test_somebody_elses_folders_of_the_same_names_are_still_theirs(tmp_path):
    """A folder without `__init__.py`, as other projects of this field have them, loses to an installed package."""
    names = ("tokenizer", "eval", "ar_model", "configs", "benchmarks", "kernels")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "theirs.py").write_text(f"whose = 'their {name}'")
    code = f"import evagen.tokenizer\nfor name in {names}: print(__import__(f'{{name}}.theirs').theirs.whose)"
    done = run(Path(sys.executable), "-c", code, folder=tmp_path)
    assert done.stdout.splitlines() == [f"their {name}" for name in names], done.stderr


def test_torchvision_imports_in_any_program_of_the_environment(tmp_path):
    """Also one that knows nothing of evagen, and after what it left behind has been collected."""
    code = "import gc, torchvision; gc.collect(); import torchvision.ops, timm; print(torchvision.__version__)"
    done = run(Path(sys.executable), "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
