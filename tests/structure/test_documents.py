"""README and docs/: every Python example runs, every command parses, is run or is listed, every file named exists."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

import ambient_solve
from ambient_solve import ALGORITHMS, NetworkConfig, NetworkPrior
from ambient_solve.cli.dispatch import main
from test_examples import SCRIPTS
from tree import LIBRARY, SOURCES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs" / "benchmarks").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
LONG = ROOT / "docs" / "long_commands.txt"

INSTALL = "python -m venv .venv && . .venv/bin/activate && pip install . && ambient-solve demo"
TEST = 'python -m venv .venv && . .venv/bin/activate && pip install -e ".[test]" && python -m pytest'
"""The two commands of the README, letter by letter."""

SETUP = (
    *(
        "python -m venv ",
        ". .venv/",
        "pip install ",
        "pre-commit ",
        "python -m pytest",
        "python -m mypy",
        "ruff ",
        "sphinx-build ",
    ),
    "umask ",
)
"""What .ci/run does, what the shell does by itself, or what installs an extra: the extra must exist."""
SERVER = "ambient-solve app"
"""Ends when it is stopped: only parsed."""
RUN = (
    "ambient-solve info",
    "ambient-solve info photos",
    "ambient-solve sample photos --n 4 --size 32 --out samples",
    "ambient-solve restore photo.png --task denoise --sigma 0.1",
    "ambient-solve restore photo.png --task inpaint --mask scratches.png --sigma 0.01",
    "ambient-solve restore photo.png --task gaussian-blur --width 1.5",
    "ambient-solve restore photo.png --task motion-blur --kernel kernel.png",
    "ambient-solve restore photo.png --task super-resolution --factor 2",
    "ambient-solve restore scans/ --task denoise --sigma 0.1 --samples 4 --out restored",
    "ambient-solve restore photo.png --task denoise --sigma 0.1 --prior runs/own/prior",
    "ambient-solve corrupt my_photos/ damaged/ --sigma 0.1 --clean-share 0.1",
)
"""Run here, in a folder with small pictures of these names."""
HOUSES = ("ambient_solve", "benchmarks", "docs", "examples", "tests", "trainers")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; `run` is false below a comment that says `not run`."""

    document: str
    line: int
    language: str
    text: str
    run: bool


def blocks(path: Path) -> list[Block]:
    found, lines = [], path.read_text().splitlines()
    start = None
    for i, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = i
            continue
        before = lines[start - 1] if start else ""
        text = "\n".join(lines[start + 1 : i])
        run = not before.startswith("<!-- not run") and "gradio_client" not in text
        name = path.relative_to(ROOT).as_posix()
        found.append(Block(name, start + 1, lines[start][3:].strip(), text, run))
        start = None
    assert start is None, f"{path}: the block of line {start} does not end"
    return found


def commands(text: str) -> list[str]:
    """The commands of a bash block, one space between words, comments and `&&` taken away."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            found.append(shlex.join(words[:end]))
            words = words[end + 1 :]
    return found


BLOCKS = [block for path in DOCUMENTS for block in blocks(path)]
COMMANDS = sorted({c for block in BLOCKS if block.language == "bash" for c in commands(block.text)})


def arguments(command: str) -> list[str] | None:
    """What `ambient-solve` is given by `command`, started as a script, as a module or by torchrun; else None."""
    words = shlex.split(command)
    if words[0] == "ambient-solve":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "ambient_solve":
        return words[words.index("-m") + 2 :]
    return None


class Parsed(Exception):
    """In place of the run of a command whose options are right."""


def parse(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise unless the command line takes `argv`."""
    real, left = tyro.cli, []

    def cli(*args, **kwargs):
        real(*args, **kwargs)
        left.extend(kwargs["args"])
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(tyro, "cli", cli)
        with pytest.raises(Parsed):
            main(argv)
    known = {field.name.rstrip("_") for cls in ALGORITHMS.values() for field in dataclasses.fields(cls)}
    for flag in (word.split("=")[0] for word in argv if word.startswith("--")):
        assert flag in [word.split("=")[0] for word in left] or flag[2:].replace("-", "_") in known, flag


def long_commands() -> dict[str, tuple[str, str]]:
    """Date and machine of each command in docs/long_commands.txt, or "small" and the file that tests it."""
    rows = [line.split(" | ") for line in LONG.read_text().splitlines() if line and not line.startswith("#")]
    assert all(len(row) == 3 for row in rows), rows
    return {shlex.join(shlex.split(command)): (day, machine) for command, day, machine in rows}


def kind(command: str) -> str:
    """How it is known that `command` works: setup, server, script (see test_examples.py), run, long; or ""."""
    words = [word for word in shlex.split(command) if "=" not in word or word.startswith("-")]
    if command.startswith(SETUP):
        return "setup"
    if command.startswith(SERVER):
        return "server"
    if words[0] == "python" and len(words) == 2 and ROOT / words[1] in SCRIPTS:
        return "script"
    if command in RUN or command == "python benchmarks/exactness.py --table":
        return "run"
    return "long" if command in long_commands() else ""


def test_the_readme_is_short_and_keeps_its_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1200 and len(text.splitlines()) <= 120
    found = [line for block in BLOCKS if block.document == "README.md" for line in block.text.splitlines()]
    assert INSTALL in found and TEST in found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_run_or_listed_and_names_files_that_exist(command, monkeypatch):
    assert kind(command), (
        f"{command}: run it in RUN of {Path(__file__).name}, or list it in docs/long_commands.txt with date and machine"
    )
    argv = arguments(command)
    if argv is not None:
        parse(argv, monkeypatch)
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text().split("optional-dependencies]")[1], re.M)
    for names in re.findall(r"\.\[([\w,]+)\]", command) if command.startswith("pip install") else ():
        assert set(names.split(",")) <= set(extras)
    for word in shlex.split(command):
        if word.split("/")[0] in HOUSES and "/" in word and not word.startswith("docs/_build"):
            assert (ROOT / word).exists(), word


def test_what_is_wrong_does_not_pass(monkeypatch):
    for wrong in ("restore a.png --tsk denoise", "sample photos --nn 4", "restoer a.png", "restore a.png --stps 3"):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            parse(shlex.split(wrong), monkeypatch)
    assert not kind("ambient-solve restore other.png --task denoise") and not kind("rm -r docs")


def test_flags_of_the_benchmarks_are_those_of_their_scripts():
    for command in COMMANDS:
        words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "python" and words[1].startswith(("benchmarks/", "examples/")):
            source = (ROOT / words[1]).read_text()
            for flag in (word for word in words if word.startswith("--")):
                assert f'"{flag}"' in source, f"{words[1]} has no {flag}"


def test_long_commands_are_those_of_the_documents():
    for command, (day, machine) in long_commands().items():
        assert command in COMMANDS, f"no document has {command!r}"
        assert command not in RUN
        assert (ROOT / machine).is_file() if day == "small" else date.fromisoformat(day) and machine


def test_files_and_links_exist():
    for path in DOCUMENTS:
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"
        for words in re.findall(r"`([^`\n]+)`", text):
            for word in words.split():
                if word.split("/")[0] in HOUSES and "/" in word and not re.search(r"[*{<]|NAME|_build", word):
                    assert (ROOT / word.rstrip(".,:")).exists(), f"{path.name}: {word}"


def unlisted(page: str) -> set[str]:
    """The public classes and functions, and the algorithms, that `page` does not list."""
    public = {name: getattr(ambient_solve, name) for name in ambient_solve.__all__}
    public |= {f"operators.{name}": getattr(ambient_solve.operators, name) for name in ambient_solve.operators.__all__}
    public |= {cls.__name__: cls for cls in ALGORITHMS.values()}
    listed = set(re.findall(r"^\.\. auto(?:class|function|exception):: ambient_solve\.(\S+)$", page, re.MULTILINE))
    return {name for name, thing in public.items() if callable(thing)} - listed


def test_the_api_page_lists_every_public_class_function_and_algorithm():
    page = (ROOT / "docs" / "api.md").read_text()
    assert unlisted(page) == set()
    assert unlisted(page.replace("ambient_solve.MMPS\n", "ambient_solve.MMPs\n")) == {"MMPS"}


def missing(text: str) -> list[str]:
    """The files of this tree that a source names and that are not there."""
    named = re.findall(
        r"(?<![\w/])(?:trainers|benchmarks|examples|docs|apps|tests)/[\w/]+\.(?:py|yaml|md|png|txt)\b", text
    )
    return [name for name in named if not (ROOT / name).exists()]


def test_files_that_the_sources_name_exist():
    assert {name: lost for name in LIBRARY if (lost := missing(SOURCES[name]))} == {}
    assert missing("see trainers/train.py, trainers/gone.py and a/docs/b.md") == ["trainers/gone.py"]


def test_the_words_are_those_of_the_field():
    avoided = re.compile(r"\b(laps?|strangers?|churn|(un)?told|lest|thrice|spread|dearer)\b", re.IGNORECASE)
    for path in [*DOCUMENTS, *sorted((ROOT / "docs" / "notebooks").glob("*.md"))]:
        assert not (found := avoided.search(path.read_text())), f"{path.name}: {found}"
    assert avoided.search("A told prior, lap by lap")


PYTHON = {}
for _block in BLOCKS:
    if _block.language == "python":
        PYTHON.setdefault(_block.document, []).append(_block)


@pytest.mark.parametrize("document", PYTHON)
def test_the_python_of_a_document_runs(document, tmp_path, monkeypatch):
    """Block after block in one namespace; that of the README is the start of examples/quickstart.py, which is run."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    torch.manual_seed(0)
    for block in PYTHON[document]:
        place = f"{block.document}, line {block.line}"
        tree = ast.parse(block.text, place)
        if document == "README.md":
            script = ast.parse((ROOT / "examples" / "quickstart.py").read_text()).body[1:]
            assert [ast.dump(a) for a in tree.body] == [ast.dump(b) for b in script[: len(tree.body)]]
        elif block.run:
            exec(compile(tree, place, "exec"), namespace)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the documents name, 16 px, and a prior for --prior."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    grey = np.zeros((16, 16), np.uint8)
    for name in ("photo.png", "scans/a.png", *(f"my_photos/{i}.png" for i in range(10))):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(name)
    grey[4:8] = 255
    Image.fromarray(grey).save("scratches.png")
    Image.fromarray(grey[:5, :5] + 255 * np.eye(5, dtype=np.uint8)).save("kernel.png")
    torch.manual_seed(0)
    config = NetworkConfig(widths=(16, 32), embedding=32)
    NetworkPrior(config).save("runs/own/prior")
    return tmp_path


@pytest.mark.parametrize("command", RUN)
def test_a_fast_command_runs(command, folder, capsys):
    assert command in COMMANDS, "no document has it"
    before = set(folder.rglob("*"))
    assert main(arguments(command)) == 0, capsys.readouterr().err
    assert "info" in command or set(folder.rglob("*")) - before


def test_the_table_of_exactness_is_what_the_command_prints():
    printed = subprocess.run(
        [sys.executable, "benchmarks/exactness.py", "--table"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() in (ROOT / "docs" / "exactness.md").read_text()
    page = (ROOT / "docs" / "algorithms.md").read_text()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in printed.strip().splitlines())
    for row in (dict(zip(head, row, strict=True)) for row in rows[:-1]):
        sentence = (
            f"*Measured, `{row['algorithm']}`: bias {row['bias']}, variance {row['variance']}, distance "
            f"{row['distance / floor']}; mixtures {row['8,1']} at (8, 1), {row['8,4']} at (8, 4), "
            f"{row['80,4']} at (80, 4).*"
        )
        assert sentence in page or "100 levels, k = 12" in sentence, f"docs/algorithms.md should say: {sentence}"
    assert sorted(ALGORITHMS) == sorted(re.findall(r"^### `(\w+)`", page, re.MULTILINE))


@pytest.mark.parametrize("name, text", [("crossing", "TEXT"), ("theory", "THEORY")])
def test_a_page_that_a_script_prints_begins_as_it_prints(name, text):
    module = __import__(name)
    assert getattr(module, text).strip() in (ROOT / "docs" / "benchmarks" / f"{name}.md").read_text()
