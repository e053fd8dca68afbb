"""`redis-router completion bash|zsh|fish`: a script by which the Tab key completes commands, options and names.

At each Tab the script gives the words of the line to this command, `--words`, so that it never grows old: what is
offered are the parser's own commands and options, and the providers of the fleet. Where Redis is away, no names are.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from redis_router.cli.arguments import Commands, opened_store
from redis_router.cli.terminal import say
from redis_router.errors import RouterError

FILES = "@files"
"""Instead of words: here stands the name of a file."""

BASH = """\
# redis-router completion bash: put this into ~/.bashrc, or run it by  source <(redis-router completion bash)
_redis_router() {
    local line=${COMP_LINE:0:COMP_POINT} words found each
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local typed=${words[-1]}
    local head=${typed%"${COMP_WORDS[COMP_CWORD]}"}  # bash begins a word after each : and =
    COMPREPLY=()
    found=$(printf '%s\\n' "${words[@]:1}" | "${words[0]}" completion bash --words 2>/dev/null) || return 0
    if [[ $found == @files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$typed")
        return 0
    fi
    while IFS= read -r each; do
        [[ -n $each ]] && COMPREPLY+=("${each#"$head"}")
    done <<< "$found"
}
complete -F _redis_router redis-router
"""
ZSH = """\
#compdef redis-router
# redis-router completion zsh: put this into ~/.zshrc, behind compinit, or into a file _redis-router of your fpath
_redis_router() {
    local -a found
    found=("${(@f)$(print -rl -- "${(@)words[2,CURRENT]}" | "${words[1]}" completion zsh --words 2>/dev/null)}")
    if [[ "$found[1]" == @files ]]; then
        _files
    elif [[ -n "$found[1]" ]]; then
        compadd -- "${found[@]}"
    fi
}
compdef _redis_router redis-router
"""
FISH = """\
# redis-router completion fish: put this into ~/.config/fish/completions/redis-router.fish
function __redis_router
    set -l words (commandline -opc) (commandline -ct)
    set -l found (printf '%s\\n' $words[2..-1] | $words[1] completion fish --words 2>/dev/null)
    if test "$found[1]" = @files
        __fish_complete_path $words[-1]
    else
        string join \\n -- $found
    end
end
complete -c redis-router -f -a '(__redis_router)'
"""
SCRIPTS: Mapping[str, str] = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def add(commands: Commands) -> None:
    """Declare the command."""
    completion = commands.add_parser("completion", help="print a script by which the Tab key completes")
    completion.add_argument("shell", choices=tuple(SCRIPTS), help="which shell it is for")
    completion.add_argument("--words", action="store_true", help=argparse.SUPPRESS)  # what the scripts ask
    completion.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    from redis_router.cli import parser

    if not arguments.words:
        say(SCRIPTS[arguments.shell].rstrip("\n"))
    elif found := candidates(parser(), sys.stdin.read().splitlines() or [""]):
        say("\n".join(found))
    return 0


def candidates(root: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What the last of these words may become."""
    typed, current = Typed(root), words[-1]
    for word in words[:-1]:
        typed.take(word)
    if typed.option is not None:
        found: Iterable[str] = map(str, typed.option.choices or ())
    elif current.startswith("-") and not typed.only_words:
        found = typed.options
    elif (action := typed.wanted) is None:
        found = ()
    elif action.metavar == "FILE":
        return [FILES]
    elif action.metavar == "PROVIDER":
        found = {*names_at(typed)} - {*typed.words}
    else:
        found = map(str, action.choices or ())
    return sorted(word for word in found if word.startswith(current))


def names_at(typed: "Typed") -> list[str]:
    """The providers of the fleet that the line is about, and their records; none where it cannot be reached."""
    given = {name: typed.given.get(name, default) for name, default in typed.defaults.items()}
    try:
        with opened_store(argparse.Namespace(**given)) as store:
            specs = {name: spec for name, spec in store.specs().items() if not spec.deregistered}
    except RouterError:
        return []
    return [*specs, *(spec.provider for spec in specs.values())]


class _Actions(argparse.HelpFormatter):
    """Keeps what a parser says of itself when it is asked for its usage."""

    def __init__(self, prog: str, *_: object, **__: object) -> None:
        super().__init__(prog)
        self.found: list[argparse.Action] = []

    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: object, prefix: str | None = None
    ) -> None:
        self.found.extend(actions)


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its arguments and options, as it lists them for its usage."""
    made: list[_Actions] = []

    def make(prog: str) -> _Actions:
        made.append(_Actions(prog))
        return made[-1]

    parser.formatter_class = make
    parser.format_usage()
    return made[-1].found


@dataclass
class Typed:
    """A command line as far as it was typed."""

    parser: argparse.ArgumentParser
    option: argparse.Action | None = None
    """It waits for its value."""
    words: list[str] = field(default_factory=list)
    """Those that are no options, of this command."""
    given: dict[str, str] = field(default_factory=dict)
    """Values of options, by their names in the code."""
    only_words: bool = False
    """`--` was typed."""

    def __post_init__(self) -> None:
        self._read()

    def _read(self) -> None:
        actions = actions_of(self.parser)
        self._options = {name: action for action in actions for name in action.option_strings}
        self._positional = [action for action in actions if not action.option_strings]

    def take(self, word: str) -> None:
        """Go on behind this word."""
        name, equals, value = word.partition("=")
        if self.option is not None:
            self.given[self.option.dest] = word
            self.option = None
        elif word == "--" and not self.only_words:
            self.only_words = True
        elif name in self._options and not self.only_words:
            action = self._options[name]
            if equals:
                self.given[action.dest] = value
            elif action.nargs != 0:
                self.option = action
        elif (action_ := self.wanted) is not None and isinstance(action_.choices, Mapping) and word in action_.choices:
            self.parser, self.words = action_.choices[word], []
            self._read()
        else:
            self.words.append(word)

    @property
    def options(self) -> list[str]:
        """The long ones that the help tells of."""
        shown = [name for name, action in self._options.items() if action.help != argparse.SUPPRESS]
        return [name for name in shown if name.startswith("--")]

    @property
    def wanted(self) -> argparse.Action | None:
        """What the next word that is no option is for."""
        several = [action for action in self._positional if action.nargs in ("*", "+")]
        alone = [action for action in self._positional if action not in several]
        return [*alone[len(self.words) :], *several, None][0]

    @property
    def defaults(self) -> dict[str, str]:
        """Where Redis is, where the line does not say so."""
        return {name: str(self.parser.get_default(name)) for name in ("redis", "namespace")}
