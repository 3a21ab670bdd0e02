"""The commands put together, and the one place where exceptions become exit codes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import surgery
from surgery.cli.build import build
from surgery.cli.diff import diff
from surgery.cli.doctor import doctor
from surgery.cli.explain import explain
from surgery.cli.inspect import inspect
from surgery.cli.interrupts import interrupted, watched
from surgery.cli.listing import list_
from surgery.cli.new import new
from surgery.cli.output import INTERRUPTED, bug_text, print_error, print_text
from surgery.cli.reduce import reduce
from surgery.cli.run import run
from surgery.cli.show import show
from surgery.cli.verify import verify
from surgery.errors import SurgeryError

app = typer.Typer(
    name="surgery",
    help=surgery.__doc__.splitlines()[0] if surgery.__doc__ else None,
    epilog="Exit codes: 0 done, 2 usage or configuration, 3 model, 4 not convertible, 5 build, "
    "6 verification, 7 environment, 70 bug, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("run")(run)
app.command("build")(build)
app.command("verify")(verify)
app.command("inspect")(inspect)
app.command("explain")(explain)
app.command("reduce")(reduce)
app.command("diff")(diff)
app.command("doctor")(doctor)
app.command("list")(list_)
app.command("show")(show)
app.command("new")(new)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_text(f"surgery {surgery.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None takes the process's.

    Returns:
        The exit code.
    """
    try:
        with watched():
            result: Any = typer.main.get_command(app).main(
                arguments, prog_name="surgery", standalone_mode=False
            )
    except KeyboardInterrupt:
        print_error("interrupted", None, INTERRUPTED)
        return 130
    except SurgeryError as error:
        print_error(error.code, error.where, error.message, cause=error.cause, fix=error.fix)
        result = error.exit_code
    except Exception as error:
        result = _usage_error(error)
        if result is None and interrupted():
            print_error("interrupted", None, INTERRUPTED)
            return 130
        if result is None:
            message, fix = bug_text(error)
            print_error("bug", None, message, fix=fix)
            return 70
    return result if isinstance(result, int) else 0


def _usage_error(error: Exception) -> int | None:
    """Print a complaint of the option parser.

    Recognised by what it offers, because the class has lived in two packages (Click, Typer); None if the
    exception is something else.
    """
    describe = getattr(error, "format_message", None)
    code = getattr(error, "exit_code", None)
    if isinstance(error, typer.Abort):
        return 130
    if describe is None or not isinstance(code, int):
        return None
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print_text(describe())
        return 2
    fix = f"see `{context.command_path} --help`" if context is not None else None
    if context is not None and context.info_name == "run" and type(error).__name__ == "MissingParameter":
        fix = f"`surgery run auto MODEL.onnx` picks the pipeline by looking at the model; {fix}"
    print_error("usage", None, describe().replace(": Value error, ", ": "), fix=fix)
    return 2
