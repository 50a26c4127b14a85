"""The tasks of a pass as an Apache Beam pipeline: on Flink, Spark, Dataflow, Dask, or several processes of one machine.

A task reads and writes files in columns, so what passes through Beam is one small element for each portion or shard,
never an event and never a history. All workers must see the tables and the output directory under the same paths, as on
a shared file system. Needs the extra `longretriever_tf[beam]`. Imports no TensorFlow.
"""

import functools
import os
import tempfile
from collections.abc import Iterator, Sequence

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import first_line, write_text_atomically
from longretriever_tf.datasets.preparation.run import Executor, Task


def on_beam(runner: str, options: Sequence[str], directory: str) -> Executor:
    """Runs tasks by a Beam runner.

    Args:
      runner: its name, as Beam's --runner takes it.
      options: further pipeline options, as name=value.
      directory: that all workers see; failures are told through it.

    Raises:
      UserError: apache-beam is not installed, or knows no such runner.
    """
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            f"--runner={runner} needs Apache Beam: pip install 'longretriever_tf[beam]' ({first_line(error)})"
        ) from error
    try:
        apache_beam.runners.create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner={runner} cannot be used: {first_line(error)}") from error
    return functools.partial(_on_beam, [f"--runner={runner}", *(f"--{option}" for option in options)], directory)


def _on_beam(arguments: list[str], directory: str, tasks: Sequence[Task]) -> Iterator[int]:
    """Yields nothing until the pipeline has ended: its runner reports progress in its own way."""
    if not tasks:
        return
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    os.makedirs(directory, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix="results-") as results:
        paths = [os.path.join(results, f"{number:06d}") for number in range(len(tasks))]
        numbered = [functools.partial(_attempt, task, path) for task, path in zip(tasks, paths, strict=True)]
        try:
            with apache_beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
                _ = pipeline | apache_beam.Create(numbered) | apache_beam.Reshuffle() | apache_beam.Map(_call)
        except Exception as error:  # runners raise what they like
            raise UserError(
                f"the Beam pipeline ({' '.join(arguments)}) failed: {first_line(error)}. The same command goes on "
                "where it stood"
            ) from error
        missing = [path for path in paths if not os.path.exists(path)]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(tasks)} tasks left no result in {directory!r}: do all workers see it?"
            )
        for path in paths:
            with open(path, encoding="utf-8") as file:
                count, _, problem = file.read().partition("\n")
            if problem:
                raise UserError(problem)
            yield int(count)


def _call(task: Task) -> int:
    return task()


def _attempt(task: Task, path: str) -> int:
    """Runs a task and writes what came of it, since the errors of a worker reach nobody in one line."""
    try:
        count, problem = task(), ""
    except UserError as error:
        count, problem = 0, str(error)
    write_text_atomically(path, f"{count}\n{problem}")
    return count
