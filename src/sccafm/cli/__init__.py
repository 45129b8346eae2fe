"""The command ``sccafm``: the functions of the library with the same words, from files to files.

Progress goes to stderr, results to stdout or files. Exit codes: 0 done, 1 the input cannot be used, 2 the command line
cannot be read, 130 interrupted.
"""

import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from sccafm._parallel import WorkerError
from sccafm.cli.inference import Demo, Embed, Infer, run_demo, run_embed, run_infer
from sccafm.cli.results import (
    Compare,
    Evaluate,
    Plot,
    Rank,
    Report,
    run_compare,
    run_evaluate,
    run_plot,
    run_rank,
    run_report,
)

__all__ = ["Compare", "Demo", "Embed", "Evaluate", "Infer", "Plot", "Rank", "Report", "main"]

MISTAKES = (
    ValueError,
    KeyError,
    OSError,
    ImportError,
    FloatingPointError,
    WorkerError,
)  # messages of validation are for users


class Command(NamedTuple):
    told: str  # in one line
    run: Callable[[Sequence[str]], None]
    options: Callable[[], type]  # for completion


def parsed(config: type, run: Callable) -> Command:
    def command(arguments: Sequence[str]) -> None:
        import tyro

        run(tyro.cli(config, args=list(arguments), prog=f"sccafm {config.__name__.lower()}"))

    return Command((config.__doc__ or "").strip().splitlines()[0], command, lambda: config)


def trained(what: str, told: str) -> Command:
    return Command(told, lambda arguments: run_train(arguments, what), lambda: train_options(what))


def train_options(what: str) -> type:
    from sccafm import train

    return {"sfm": train.TrainSFM, "efm": train.TrainEFM}[what]


def run_train(arguments: Sequence[str], what: str) -> None:
    import tyro

    from sccafm import train
    from sccafm.train.config import read_config
    from sccafm.train.machine import is_first

    kind, function = train_options(what), {"sfm": train.train_sfm, "efm": train.train_efm}[what]
    arguments = list(arguments)
    default = None
    if arguments and arguments[0].endswith(".json"):
        default = read_config(Path(arguments.pop(0)), kind)
    prog = f"python -m sccafm.train {what} [CONFIG.json]"
    folder = function(tyro.cli(kind, args=arguments, default=default, prog=prog))
    if is_first():
        print(f"written to {folder}; load it with sccafm.load({str(folder)!r})")


COMMANDS = {
    ("demo",): parsed(Demo, run_demo),
    ("infer",): parsed(Infer, run_infer),
    ("embed",): parsed(Embed, run_embed),
    ("rank",): parsed(Rank, run_rank),
    ("compare",): parsed(Compare, run_compare),
    ("plot",): parsed(Plot, run_plot),
    ("report",): parsed(Report, run_report),
    ("evaluate",): parsed(Evaluate, run_evaluate),
    ("train", "sfm"): trained("sfm", "Train a structure module on a folder of h5ad and zarr files."),
    ("train", "efm"): trained("efm", "Train an embedding module under a structure module."),
}


def usage() -> str:
    lines = [f"  sccafm {' '.join(words):10} {command.told}" for words, command in COMMANDS.items()]
    more = [
        "sccafm COMMAND --help tells the options of each, with an example.",
        "Completion of the shell: sccafm --tyro-print-completion bash (zsh, tcsh); see docs/command_line.md.",
    ]
    return "\n".join(["usage:", *lines, "", *more])


def complete(arguments: Sequence[str]) -> None:
    """Print or write what the shell needs to complete commands and options."""
    from typing import Annotated, Any, Union

    import tyro

    kinds = tuple(
        Annotated[command.options(), tyro.conf.subcommand("-".join(words))] for words, command in COMMANDS.items()
    )
    chosen: Any = Union[kinds]  # noqa: UP007 (made at run time)
    tyro.cli(chosen, args=list(arguments), prog="sccafm")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that `argv` (the process's arguments if None) names."""
    is_process = argv is None
    if is_process:
        warnings.showwarning = functools.partial(show_warning, None)
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0].startswith("--tyro-"):
        return complete(argv)
    for words, command in COMMANDS.items():
        if tuple(argv[: len(words)]) == words:
            if is_process:
                warnings.showwarning = functools.partial(show_warning, command)
            return guarded(command, argv[len(words) :])
    if argv and argv[0] not in ("-h", "--help"):
        print(f"sccafm: no command {' '.join(argv[:2])!r}\n{usage()}", file=sys.stderr)
        sys.exit(2)
    print(usage())


def guarded(command: Command, arguments: Sequence[str]) -> None:
    """Run a command; mistakes are told without a traceback."""
    try:
        command.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # what reads the results, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MISTAKES as error:
        sys.exit(f"sccafm: {as_options(str(error.args[0] if isinstance(error, KeyError) else error), command)}")
    except KeyboardInterrupt:
        print("sccafm: interrupted; the same command resumes what resumes", file=sys.stderr)
        sys.exit(130)


def show_warning(command: Command | None, message, category, filename, lineno, file=None, line=None) -> None:
    """A warning in one line, without the place in the code."""
    print(f"sccafm: {as_options(str(message), command)}", file=sys.stderr)


def as_options(message: str, command: Command | None) -> str:
    """Advice in the words of the command line: ``n_top_genes=2000`` is --n-top-genes 2000, ``anchor=False`` --no-anchor.

    Parameters that the command does not have stay as Python writes them.
    """
    names = set() if command is None else {field.name for field in fields(command.options())}

    def option(found: re.Match) -> str:
        name, switch, value = found["name"], found["switch"], found["value"]
        if name not in names:
            return found.group()
        dashed = name.replace("_", "-")
        return f"--no-{dashed}" if switch == "False" else f"--{dashed}{f' {value}' if value else ''}"

    return re.sub(r"\b(?P<name>[a-z_]+)=(?:(?P<switch>False|True)\b|(?P<value>[\w\"'.-]*))", option, message)
