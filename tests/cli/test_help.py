"""Every page of --help: 80 columns, a sentence for each option, the right program, and an example that parses."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
import yaml

from ambient_solve.cli import dispatch
from ambient_solve.cli.dispatch import main
from ambient_solve.cli.help import EXAMPLES, folded
from ambient_solve.data.damages import DAMAGES
from ambient_solve.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (*dispatch.COMMANDS, *dispatch.RAW)
DOORS = ("train", "finetune", "em", "annotate", "export")
PAGES = [f"ambient-solve {name}" for name in COMMANDS] + [f"python trainers/{name}.py" for name in DOORS]
WIDTH = 80


def leave(program: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `program` with `words`, in this process."""
    if program.startswith("ambient-solve"):
        return main([*program.split()[1:], *words])
    path = ROOT / program.split()[1]
    spec = importlib.util.spec_from_file_location(f"door_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    try:
        module.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def page(program: str, capsys, monkeypatch, *words: str) -> str:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert leave(program, [*words, "--help"], monkeypatch) == 0
    return capsys.readouterr().out


def entries(text: str) -> dict[str, str]:
    """What is said of each option and positional argument, by its name, without default and range."""
    lines, start = [], 0
    for line in text.splitlines():
        if line.startswith("│ ───"):  # what stands above it is said of the whole box
            del lines[start:]
        elif line.startswith("│"):
            lines.append(line[2:-2])
        else:
            start = len(lines)
    column = next(line.index("show this help message") for line in lines if "show this help message" in line)
    found: dict[str, str] = {}
    name = None
    for line in lines:
        # What is left of the column of help: the name, or the rest of one that is too long for a line.
        if line[:column].strip() and not line.startswith(" "):
            fresh = re.match(r"(-h, )?--[\w.-]+|[A-Z[]", line)
            if fresh:
                name = line[: line.find("  ")] if "  " in line.strip() else line.strip()
                found[name] = ""
            line = line if line[column - 1] == " " else ""
        if name is not None:
            found[name] += " " + line[column:].strip()
    return {name: re.sub(r"\((?:[^()]|\([^()]*\))*\)\s*$", "", said).strip() for name, said in found.items()}


def faults(text: str) -> list[str]:
    """What is wrong with a page of help."""
    wrong = [f"{len(line)} columns: {line}" for line in text.splitlines() if len(line) > WIDTH]
    wrong += [f"no sentence: {name}" for name, said in entries(text).items() if len(said.split()) < 2]
    wrong += [f"path of this machine: {line}" for line in text.splitlines() if str(ROOT) in line]
    if "--config FILE" not in text:  # a setting of YAML may be empty
        wrong += [f"odd default: {odd}" for odd in re.findall(r"\(default:\s+(?:None|''|)\)|\{None\}\|", text)]
    return wrong + ([] if examples(text) else ["no example at the end"])


def examples(text: str) -> list[str]:
    """The commands at the end of a page, each on one line."""
    end = text.rpartition("\nexample")[2].partition(":\n")[2]
    return [line.strip() for line in end.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("program", PAGES)
def test_a_page_has_sentences_and_an_example_and_fits(program, capsys, monkeypatch):
    text = page(program, capsys, monkeypatch)
    assert faults(text) == []
    assert text.startswith(f"usage: {program} [-h]")


@pytest.mark.parametrize("program", PAGES)
def test_the_example_parses(program, capsys, monkeypatch):
    real, taken = tyro.cli, []

    def cli(*args, **kwargs):
        taken.append(real(*args, **kwargs))
        raise SystemExit(0)

    text = page(program, capsys, monkeypatch)
    monkeypatch.chdir(ROOT)
    for command in examples(text):
        words = shlex.split(command)
        assert " ".join(words).startswith((program, "accelerate launch trainers/train.py")), command
        door = words.index("trainers/train.py") + 1 if words[0] == "accelerate" else len(program.split())
        rest = words[door:]
        with monkeypatch.context() as patch:
            patch.setattr(tyro, "cli", cli)
            assert leave(program, rest, patch) == 0, capsys.readouterr().err
    assert len(taken) == len(examples(text))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_knobs_of_an_objective_and_of_every_damage_have_sentences(objective, capsys, monkeypatch, tmp_path):
    file = tmp_path / "run.yaml"
    # One data set hides one kind of thing.
    for hidden in {damage.hides for damage in DAMAGES.values()}:
        kinds = [kind for kind, damage in DAMAGES.items() if damage.hides == hidden]
        damages = [{"kind": kind, **({"function": "json:loads"} if kind == "custom" else {})} for kind in kinds]
        file.write_text(yaml.safe_dump({"objective": {"kind": objective}, "corruption": {"damages": damages}}))
        text = page("ambient-solve train", capsys, monkeypatch, "--config", str(file))
        assert faults(text) == []
        assert f"--corruption.damages.{len(damages) - 1}.share" in text and "--corruption.clean-share" in text


def test_help_without_a_command(capsys, monkeypatch):
    text = page("ambient-solve", capsys, monkeypatch)
    assert max(map(len, text.splitlines())) <= WIDTH and text.startswith("usage: ambient-solve COMMAND")
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in COMMANDS)
    assert [shlex.split(command)[1] for command in examples(text)] == ["demo", "restore"]


def test_the_usage_names_the_module_where_it_was_started():
    done = subprocess.run(
        [sys.executable, "-m", "ambient_solve", "info", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: python -m ambient_solve info [-h]")


def test_every_command_has_an_example():
    assert set(EXAMPLES) == {*COMMANDS, *(f"trainers/{name}.py" for name in DOORS)}


def test_prose_is_folded_and_its_tables_keep_their_columns():
    table = "    a    first\n    long name that is no key\n    bb   second, which\n         goes on"
    assert folded(f"One line that\ngoes on.\n\n{table}\n\nEnd.", 40) == (
        "One line that goes on.\n\n  a    first\n  long name that is no key\n  bb   second, which goes on\n\nEnd."
    )
    assert folded("Head.\n\n    key  " + "word " * 9 + "\n\nTail.", 30).splitlines()[3] == "       word word word word"
    assert folded("Head.\n\n    python x.py --y 1\n\nTail.") == "Head.\n\nTail."


def test_what_is_wrong_with_a_page_is_found():
    box = [
        "usage: ambient-solve x [-h]",
        "│ -h, --help  show this help message and exit │",
        "│ --good INT  How many.                       │",
        "│ --silent INT                                │",
        "│             (default: 3)                    │",
        "│ --long a|b|c|d|e|f                          │",
        "│             Which of them. (default: '')    │",
        "x" * 81,
    ]
    found = faults("\n".join(box))
    assert [f.split(":")[0] for f in found] == ["81 columns", "no sentence", "odd default", "no example at the end"]
    assert "--silent INT" in found[1]
    assert faults("\n".join([*box[:3], "", "example:", "  ambient-solve x --good 3 \\", "      --silent 2"])) == []
