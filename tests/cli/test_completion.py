import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import Srptq, refused

from srptq_plugin.cli.command import BY_NAME

SHELLS = ("bash", "zsh", "tcsh")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_knows_every_command(srptq: Srptq, shell: str) -> None:
    pytest.importorskip("shtab")
    result = srptq("completion", shell)
    assert result.code == 0, result.err
    assert [name for name in BY_NAME if name not in result.out] == []
    assert "--recipe" in result.out


def test_bash_completes_commands_and_options(srptq: Srptq, tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    script = tmp_path / "srptq.bash"
    script.write_text(srptq("completion", "bash").out)
    code = (
        'source "$1"; f() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_srptq; '
        'echo "${COMPREPLY[*]}"; }; '
        "f srptq verif; f srptq report --cr"
    )
    done = subprocess.run([bash, "-c", code, "-", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.split() == ["verify", "--crops"]


def test_without_shtab_the_extra_is_named(srptq: Srptq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    refused(srptq("completion", "bash"), "pip install 'srptq-plugin[completion]'")


def test_other_shells_are_refused(srptq: Srptq) -> None:
    refused(srptq("completion", "fish"), "bash", "zsh")
