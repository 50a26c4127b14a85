"""The command `longretriever`: runs one of the package's commands, or lists them with one line each.

  longretriever train --flagfile=demo
  longretriever train --help

`python -m longretriever_tf` is the same; `python -m longretriever_tf.NAME` runs a command without it.
"""

import ast
import difflib
import pathlib
import runpy
import sys

COMMANDS = {
    "Begin here": ("demo",),
    "Your log": ("inspect_log", "contexts", "prepare", "plan"),
    "A run": ("train", "tune", "launch", "evaluate", "evaluate_baselines", "plot"),
    "Serving": ("export", "refresh", "recommend", "serve", "sample_users", "load_test"),
    "The paper": ("minimal", "funnel", "reproduce"),
    "This installation": ("doctor",),
}
_ELSEWHERE = {"load_test": "serving.load_test"}
"""Commands whose module is not the package's own child of that name."""

_PACKAGE = pathlib.Path(__file__).resolve().parent


def module_of(command: str) -> str:
    """The module below the package that a command is."""
    return _ELSEWHERE.get(command, command)


def first_line(command: str) -> str:
    """The first line of a command's docstring, without what follows a colon; the module is read, not imported."""
    path = _PACKAGE.joinpath(*module_of(command).split(".")).with_suffix(".py")
    described = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return described.partition("\n")[0].partition(": ")[0].partition("; ")[0].rstrip(".")


def overview() -> str:
    """All commands by what they are for, one line each."""
    lines = ["usage: longretriever COMMAND --flag=value ...   (longretriever COMMAND --help lists the flags)"]
    width = max(len(name) for names in COMMANDS.values() for name in names)
    for title, names in COMMANDS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}  {first_line(name)}" for name in names]
    return "\n".join([*lines, ""]).rstrip()


def main() -> int:
    """Runs the command that the first argument names, in this process, as `python -m` does."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0].lstrip("-") in ("help", "h", "helpfull", "helpshort"):
        print(overview())
        return 0
    command, known = arguments[0], [name for names in COMMANDS.values() for name in names]
    if command == "--version":
        from longretriever_tf import __version__

        print(f"longretriever_tf {__version__}")
        return 0
    if command not in known and command not in _ELSEWHERE.values():
        near = difflib.get_close_matches(command.replace("-", "_"), known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(known)}"
        print(f"error: {command!r} is no command; {hint}\nhelp: longretriever --help lists them", file=sys.stderr)
        return 2
    module = f"longretriever_tf.{module_of(command)}"
    sys.argv[:] = [module, *arguments[1:]]  # absl names a command's own flags by argv[0]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # before the command has begun: libraries were being loaded
        print("stopped by the user", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
