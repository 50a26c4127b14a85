"""Runs a plan of experiments and writes one report of them, HTML and Markdown.

  longretriever reproduce --plan=configs/reproduce/quick.toml --work_dir=runs/reproduce
  longretriever reproduce --plan=configs/reproduce/complete_journey.toml --dry_run

Each job is a command of this package with its own run directory and log under --work_dir. Finished jobs are skipped and
interrupted jobs resume. Results of another command, flagfile or code are computed again, and the old ones kept under
superseded/. A failed job stops only the jobs that need it: the report names it, and the exit status is 1.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import require_writable
from longretriever_tf.config import flags
from longretriever_tf.reproduction.jobs import Job, State, expected_minutes, make_jobs, select_jobs
from longretriever_tf.reproduction.plan import load_plan
from longretriever_tf.reproduction.runner import JobRunner, stop_on_signals

_PLAN = absl_flags.DEFINE_string(
    "plan", "configs/reproduce/quick.toml", "The plan of runs, measures and report; see configs/reproduce."
)
_WORK_DIR = absl_flags.DEFINE_string(
    "work_dir", "", "Directory of runs, measures and the report; empty: runs/reproduce/NAME OF THE PLAN."
)
_ONLY = absl_flags.DEFINE_list(
    "only", [], "Run only these runs, measures or jobs (and what they need); * and ? are allowed. Default: all."
)
_PARALLEL = absl_flags.DEFINE_integer(
    "parallel", 1, "Jobs at once; the cores are split among them. Changes speed alone.", lower_bound=1
)
_DRY_RUN = absl_flags.DEFINE_bool(
    "dry_run", False, "Show the jobs, their states and the cost of what is left; run nothing."
)
_REPORT_ONLY = absl_flags.DEFINE_bool("report_only", False, "Run nothing; report the jobs that are done.")
_PARTIAL = absl_flags.DEFINE_bool(
    "partial", False, "With --report_only: report even if jobs are missing; the report names them."
)
_ANY_CODE = absl_flags.DEFINE_bool(
    "any_code", False, "Count jobs that another version of this package finished by the same commands as done."
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; status 1 if a job failed."""
    del argv
    stop_on_signals()
    plan = load_plan(_PLAN.value)
    name = os.path.splitext(os.path.basename(_PLAN.value))[0]
    work_dir = os.path.normpath(_WORK_DIR.value or os.path.join("runs", "reproduce", name))
    jobs = make_jobs(plan, work_dir)
    wanted = select_jobs(jobs, _ONLY.value)
    print(_overview(wanted), flush=True)
    if _DRY_RUN.value:
        return 0
    # Before the jobs, so that a missing library is an error before hours of work, not after; not for --dry_run.
    from longretriever_tf.reproduction.report import make_report, write_report
    from longretriever_tf.reproduction.results import Results

    require_writable(work_dir)
    failed: dict[str, str] = {}
    if _REPORT_ONLY.value:
        _require_done(wanted)
    else:
        failed = JobRunner(jobs, work_dir, _PARALLEL.value, _ANY_CODE.value).run(wanted)
    report = make_report(plan, jobs, Results(plan, jobs, _ANY_CODE.value))
    print(f"written: {', '.join(write_report(report, work_dir))}")
    for job, reason in failed.items():
        print(f"failed: {job}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _overview(jobs: Mapping[str, Job]) -> str:
    """The jobs, the state of each, and the cost of what is left."""
    width = max(map(len, jobs), default=0)
    lines, left = [], 0.0
    for name, job in jobs.items():
        state, minutes = job.state(_ANY_CODE.value), expected_minutes(job, jobs)
        left += 0.0 if state is State.DONE else minutes
        lines.append(f"{name.ljust(width)}  {state.value:<13}  {minutes:7.1f} min  {job.command}")
    done = sum(job.state(_ANY_CODE.value) is State.DONE for job in jobs.values())
    shared = f", {left / _PARALLEL.value:,.0f} with {_PARALLEL.value} at once" if _PARALLEL.value > 1 else ""
    return "\n".join([*lines, f"{len(jobs)} jobs, {done} done; about {left:,.0f} minutes of work left{shared}"])


def _require_done(jobs: Mapping[str, Job]) -> None:
    missing = [name for name, job in jobs.items() if job.state(_ANY_CODE.value) is not State.DONE]
    if missing and not _PARTIAL.value:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        where = f" --work_dir={_WORK_DIR.value}" if _WORK_DIR.value else ""
        raise UserError(
            f"--report_only: {len(missing)} of {len(jobs)} jobs have no result yet: {shown}. Run them: "
            f"longretriever reproduce --plan={_PLAN.value}{where} (or report without them: add --partial)"
        )


if __name__ == "__main__":
    flags.run_command(main)
