"""``cloister completion SHELL``: prints what a shell needs to complete this program's words."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

_BASH = """_cloister_completion() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _CLOISTER_COMPLETE=complete_bash $1 ) )
    return 0
}
complete -o default -F _cloister_completion cloister
"""
_ZSH = """#compdef cloister
_cloister_completion() {
    eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _CLOISTER_COMPLETE=complete_zsh cloister)
}
compdef _cloister_completion cloister
"""
_FISH = (
    "complete --command cloister --no-files --arguments "
    "'(env _CLOISTER_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args "
    "_TYPER_COMPLETE_ARGS=(commandline -cp) cloister)'\n"
)


class Shell(StrEnum):
    """Shells that we print completion for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


SCRIPTS = {Shell.bash: _BASH, Shell.zsh: _ZSH, Shell.fish: _FISH}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("completion")(completion)


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish")]) -> None:
    """Print shell completion: eval "$(cloister completion bash)"."""
    sys.stdout.write(SCRIPTS[shell])
