"""A plan as text: a table of its figures, where they come from, and the commands to type. Imports no TensorFlow."""

import textwrap
from collections.abc import Sequence

from longretriever_tf.common.text_table import terminal_width
from longretriever_tf.planning.estimate import PlanInputs, PlanLine


def render_plan(inputs: PlanInputs, lines: Sequence[PlanLine]) -> str:
    """The whole output of `plan`."""
    parts = [_head(inputs)]
    for part in dict.fromkeys(line.part for line in lines):
        mine = [line for line in lines if line.part == part]
        width = max(len(line.label) for line in lines)
        rows = [f"  {line.label:{width}s}  {_number(line.value):>9s} {line.unit:10s}  {line.basis}" for line in mine]
        parts.append("\n".join([part.upper(), *rows]))
    parts += [_sources(lines), _commands(inputs, {line.key: line.value for line in lines})]
    return "\n\n".join(parts) + "\n"


def _head(inputs: PlanInputs) -> str:
    return (
        f"{_number(inputs.users)} users of {_number(inputs.events_per_user)} events: {_number(inputs.events)} events, "
        f"{_number(inputs.items)} items in {_number(inputs.categories)} categories\n"
        f"{_number(inputs.examples)} examples an epoch, {_number(inputs.qps)} requests a second"
    )


def _sources(lines: Sequence[PlanLine]) -> str:
    """One paragraph a figure."""
    width, out = terminal_width(), ["WHERE THEY COME FROM"]
    out.append("measured: within sizes that were measured; extrapolated: beyond; estimated: not measured")
    for line in lines:
        text = f"{line.part}, {line.label}: {line.basis}: {line.why}"
        out.append(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False))
    return "\n".join(out)


def _commands(inputs: PlanInputs, values: dict[str, float]) -> str:
    """What to type, with the plan's numbers; only flags that exist."""
    prepare = f"--output=prepared --num_shards={values['shards']:.0f} --num_workers={inputs.cores}"
    tables = "--dataset=event_log --events='events/*.parquet' --items=items.parquet"
    train = f"--data=prepared --run_dir=runs/planned --epochs={inputs.epochs:.0f}"
    train += " --device_input --xla" if inputs.fits(values["in_memory_gb"]) else ""
    command = "train" if inputs.devices == 1 else f"launch --num_processes={inputs.devices} --"
    lines = [
        f"longretriever prepare {tables} {prepare}",
        f"longretriever {command} {train}",
        *_serving_commands(round(values["category_shards"])),
        f"longretriever load_test --export_dir=exports/longretriever --history_length={inputs.events_per_user:.0f}",
    ]
    return "\n".join(["COMMANDS (longretriever NAME --help explains each)", *lines])


def _serving_commands(num_shards: int) -> list[str]:
    export = "longretriever export --run_dir=runs/planned --export_dir=exports/longretriever --index=auto"
    serve = "longretriever serve --model_name=longretriever --model_base_path=exports/longretriever"
    if num_shards == 1:
        return [export, serve]
    return [
        f"{export} --category_shards={num_shards}",
        f"{serve}/router --shards_file=exports/longretriever/shards.json    # and each shard-N on machines of its own",
    ]


def _number(value: float) -> str:
    """Three digits, with thousands separated; very large ones as 1.8e+13."""
    if value >= 1e7 or 0 < value < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
