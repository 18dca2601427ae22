"""Run many notebooks, some at a time, and tell how they ended."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait

from repsim.cli.jobs import Job
from repsim.cli.kernels import Kernels, Outcome, execute


def run(jobs: list[Job], workers: int = 1) -> list[Outcome]:
    """Run notebooks, `workers` at a time, telling on stdout when each begins and ends.

    Returns one outcome per job, in the order of `jobs`. Ctrl-C stops every kernel; what it cut short, or what
    had not begun, is "interrupted".
    """
    workers = max(1, min(workers, len(jobs)))
    kernels = Kernels()

    def one(job: Job) -> Outcome:
        _say(f"start   {job.name}")
        outcome = execute(job, kernels, threads=max(1, cores() // workers))
        _say(f"{outcome.status:<7} {job.name} ({outcome.seconds:.1f} s)")
        return outcome

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            wait(futures)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            kernels.stop([future for future in futures if not future.cancelled()])
    return [
        Outcome(job, "interrupted") if future.cancelled() else future.result()
        for job, future in zip(jobs, futures, strict=True)
    ]


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(line: str) -> None:
    """Print a line in one piece, though several threads print."""
    print(f"{line}\n", end="", flush=True)


def summary(outcomes: list[Outcome]) -> str:
    """A table of notebook, status, seconds and output path; then a line for every failure."""
    rows = [("notebook", "status", "seconds", "output")]
    rows += [(o.job.name, o.status, f"{o.seconds:.1f}", str(o.output or "–")) for o in outcomes]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{n:<{widths[0]}}  {s:<{widths[1]}}  {t:>{widths[2]}}  {path}" for n, s, t, path in rows]
    lines += [f"{outcome.job.name} failed: {outcome.error}" for outcome in outcomes if outcome.error]
    return "\n".join(lines)
