"""absl flags derived from the config dataclasses; only commands import this module."""

import dataclasses
import gc
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import config as config_lib
from longretriever_tf.config import recipes
from longretriever_tf.config.baselines import LONGRETRIEVER
from longretriever_tf.config.formats import with_format
from longretriever_tf.config.former import FORMER_NAMES, explain_removed
from longretriever_tf.config.help import help_text
from longretriever_tf.config.shipped import expand_flagfiles
from longretriever_tf.config.warm_start import earlier_settings, require_warm_start, with_one_epoch

flags.disclaim_key_flags()  # they belong to the command that asks for them, so that its --help lists them

_HELP = ("help", "helpfull", "helpshort", "helpxml", "h", "?")
_OWN_HELP = ("help", "helpshort", "h", "?")
"""Answered by `help.help_text`; absl answers the others."""

_RESUMED = ("train", "launch", "prepare", "tune", "reproduce", "contexts")
"""Commands that keep what they have done when they are stopped."""

_SECTIONS = {field.name: field.type for field in dataclasses.fields(config_lib.Config)}
_defined: list[str] = []
"""Sections whose flags this process has defined."""


def define_config_flags(*sections: str) -> None:
    """Defines one flag per field of the named sections (`data`, `model`, `train`, `retrieval`, `index`, `baseline`).

    A command that makes a config of its own, and so takes the section `train`, gets `--recipe` too.
    """
    if "train" in sections:
        flags.DEFINE_enum("recipe", recipes.FULL, list(recipes.RECIPES), recipes.HELP)
    _defined.extend(sections)
    for section in sections:
        for field in dataclasses.fields(_SECTIONS[section]):  # type: ignore[arg-type]
            described, choices = field.metadata["help"], field.metadata["choices"]
            default: Any = field.default
            if choices:
                flags.DEFINE_enum(field.name, default, choices, described)
            elif isinstance(default, bool):
                flags.DEFINE_bool(field.name, default, described)
            elif isinstance(default, tuple):
                flags.DEFINE_list(field.name, list(default), described)
            elif isinstance(default, int):
                flags.DEFINE_integer(field.name, default, described)
            elif isinstance(default, float):
                flags.DEFINE_float(field.name, default, described)
            else:
                flags.DEFINE_string(field.name, default, described)
    for former, name in FORMER_NAMES.items():
        if name in flags.FLAGS and former not in flags.FLAGS:
            flags.DEFINE_alias(former, name)


def define_list_flags() -> tuple[flags.FlagHolder[list[str]], flags.FlagHolder[list[str]]]:
    """Defines --lists and --lists_columns of the commands that evaluate."""
    lists = flags.DEFINE_multi_string(
        "lists",
        [],
        "NAME:FILE, once for each: lists of any other system, evaluated alongside under the same truth. A Parquet or "
        "CSV file with the columns user, item, and rank (1 is the best) or score; optional: task (all, novel, within).",
    )
    columns = flags.DEFINE_list(
        "lists_columns",
        [],
        "COLUMN:NAME, separated by commas: how the files of --lists name their columns, say user:client,item:sku.",
    )
    return lists, columns


def config_from_flags(base: config_lib.Config | None = None) -> config_lib.Config:
    """The config that the flags describe: `base`, or the recipe, with each flag that was given laid over it."""
    recipe = recipes.RECIPES[flags.FLAGS.recipe if base is None and "recipe" in flags.FLAGS else recipes.FULL]
    base = base or config_lib.Config()
    sections: dict[str, Any] = {}
    for section in _SECTIONS:
        value = getattr(base, section)
        given = {**recipe.get(section, {}), **_given_flags(value)}
        sections[section] = with_format(value, given) if section == "data" else dataclasses.replace(value, **given)
    if recipe is recipes.RECIPES[recipes.PAPER] and sections["model"].model != LONGRETRIEVER:
        raise UserError(
            f"--recipe=paper with --model={sections['model'].model}: that recipe is LongRetriever's own; leave it out"
        )
    return config_lib.Config(**sections)


def data_from_flags() -> config_lib.DataConfig:
    """The data section alone, for a command whose own flags bear names of other sections."""
    data = config_lib.DataConfig()
    return with_format(data, _given_flags(data))


def section_from_flags(base: Any) -> Any:
    """One section with the flags that were given laid over it, for a command whose own flags bear names of others.

    Args:
      base: of a config, say its `index`.
    """
    return dataclasses.replace(base, **_given_flags(base))


def _given_flags(section: Any) -> dict[str, Any]:
    """The settings of a section whose flags were given, by name."""
    given = {}
    for field in dataclasses.fields(section):
        if field.name in flags.FLAGS and flags.FLAGS[field.name].present:
            flag = flags.FLAGS[field.name].value
            given[field.name] = tuple(flag) if isinstance(flag, list) else flag
    return given


def training_config() -> config_lib.Config:
    """The config of `train`: with --warm_start and without --recipe, flags are laid over the settings of that run.

    An update makes one epoch of each phase, unless --epochs and --interest_epochs are given.

    Raises:
      UserError: a mistake in the flags, or no run is where --warm_start points.
    """
    given: dict[str, Any] = {}
    for section in _SECTIONS.values():
        given |= _given_flags(section)
    require_warm_start(given)
    if not given.get("warm_start"):
        return config_from_flags()
    base = None if flags.FLAGS["recipe"].present else earlier_settings(given["warm_start"])
    return with_one_epoch(config_from_flags(base), given)


def take_after_dashes(argv: list[str]) -> list[str]:
    """Cuts off a command line what follows `--`, the flags of another command, and returns it."""
    if "--" not in argv:
        return []
    end = argv.index("--")
    rest = argv[end + 1 :]
    del argv[end:]
    return rest


def run_command(main: Callable[[Sequence[str]], Any]) -> None:
    """Runs a command: a user's mistake is one line on stderr and exit status 2, never a traceback."""

    def guarded(argv: Sequence[str]) -> int:
        if len(argv) > 1:
            print(
                f"error: unexpected argument {argv[1]!r}; flags are written --name=value (see --help)", file=sys.stderr
            )
            return 2
        try:
            status = main(argv) or 0
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            return _end_of_pipe()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            goes_on = _program().split()[-1] in _RESUMED
            rest = (
                "the same command goes on from the last checkpoint"
                if goes_on
                else "it begins anew when it is run again"
            )
            print(f"stopped by the user; {rest}", file=sys.stderr)
            return 130

    _open_streams()
    _collect_less()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # TensorFlow and TFDS narrate their file handling at INFO
    app.run(guarded, flags_parser=_parse)


def _collect_less() -> None:
    """Tracing makes millions of objects that stay: looking for garbage among them was a twentieth of an export."""
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)


def _open_streams() -> None:
    """Output that was closed (`>&-`) goes nowhere; a character that the terminal's encoding lacks is shown escaped."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end_of_pipe() -> int:
    """The reader of the output has left, as `| head` does: nothing is wrong."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered goes nowhere, without a word at the exit
    return 128 + signal.SIGPIPE


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        if _wants_help(argv):
            _print_help(argv)
        rest: list[str] = flags.FLAGS([argv[0], *expand_flagfiles(list(argv[1:]))])
        _check_given()
        return rest
    except flags.Error as error:
        print(f"error: {_plain(error)}\nhelp: {_program()} --help lists every flag", file=sys.stderr)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        sys.exit(_end_of_pipe())
    except (OSError, UnicodeDecodeError) as error:
        named = ", ".join(arg for arg in argv if _bare(arg) == "flagfile")
        print(f"error: {named or 'a flagfile'} cannot be read as UTF-8 text: {error}", file=sys.stderr)
    sys.exit(2)


def _program() -> str:
    """What a user types to run this command."""
    name = getattr(sys.modules["__main__"].__spec__, "name", "")
    return f"longretriever {name.rpartition('.')[2]}" if name.startswith("longretriever_tf.") else sys.argv[0]


def _plain(error: Exception) -> str:
    """Message of absl without its own mark, in plain words where it gives a tuple, with the cure for a removed flag."""
    text = str(error).removeprefix("ERROR:: ")
    if isinstance(error, flags.UnrecognizedFlagError) and (removed := explain_removed(error.flagname)):
        return f"--{error.flagname}: {removed}; leave the flag out"
    if isinstance(error, flags.UnrecognizedFlagError) and (kept := _kept_by(error.flagname)):
        return f"Unknown command line flag '{error.flagname}': a setting of train, and {kept}; leave the flag out"
    head, _, _ = text.partition(": ('Non-boolean argument to boolean flag'")
    return text if head == text else f"{head}: expected true or false; --name and --noname say so too"


def _kept_by(name: str) -> str:
    """What has this setting of a training already, where the command reads a run or an export; else ""."""
    fields = {field.name for section in _SECTIONS.values() for field in dataclasses.fields(section)}  # type: ignore[arg-type]
    if name not in fields - {"run_dir"}:
        return ""
    if "run_dir" in flags.FLAGS:
        return "the run has its own"
    return "the export has it" if "export_dir" in flags.FLAGS else ""


def _check_given() -> None:
    """Refuses what absl lets pass: nan and inf, beyond any bound; and "" for a name, as an unset variable leaves it."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if not flag.present:
            continue
        if isinstance(flag.value, float) and not math.isfinite(flag.value):
            raise flags.IllegalFlagValueError(f"flag --{name}={flag.value}: expected a finite number")
        if flag.value == "" and flag.default:
            raise flags.IllegalFlagValueError(
                f"flag --{name}=: it is empty (a variable that is not set?); expected a value such as {flag.default}"
            )


def _wants_help(argv: Sequence[str]) -> bool:
    return any(arg.startswith("-") and _bare(arg) in _HELP for arg in argv[1:])


def _print_help(argv: Sequence[str]) -> None:
    """Prints the help and ends with status 0: who asked for it made no mistake."""
    asked = next(name for name in map(_bare, argv[1:]) if name in _HELP)
    if asked in _OWN_HELP:
        command = flags.FLAGS.get_key_flags_for_module(argv[0])
        print(help_text(sys.modules["__main__"].__doc__ or "", command, _defined))
    else:
        try:
            flags.FLAGS([argv[0], f"--{asked}"])
        except SystemExit:
            pass  # absl calls it a failure
    sys.stdout.flush()
    sys.exit(0)


def _bare(arg: str) -> str:
    return arg.lstrip("-").partition("=")[0]
