"""``boardwise nightly accept NAME``: an intended step becomes the baseline; ``--undo`` takes it back."""

from __future__ import annotations

import argparse

from harness import terminal
from harness.first_look import STORE
from results.errors import ConfigError, unknown_name
from results.nights import accept, accepted_names, known_names, standing, take_back
from results.store import Run, Store


def accept_command(args: argparse.Namespace) -> int:
    """Accepts the newest level of a series, or of all series of a source; says which and what it is.

    Raises:
        ConfigError: If no plan has that name, or several have it and ``--plan`` does not say which.
    """
    file = args.runs / "nightly" / STORE
    if not file.is_file():
        raise ConfigError(f"{args.runs}/nightly holds no nights yet; --runs names another folder")
    with Store.open(file) as store:
        run = _plan_of(store, args)
        if args.undo:
            told = [
                {
                    "plan": run.name,
                    "series": series,
                    "text": "its steps are told again from the next night on",
                }
                for series in take_back(run, args.words[1])
            ]
        else:
            steps = {one.series: one.text for one in standing(run)}
            told = [
                {"plan": run.name, "series": series, "text": steps.get(series, "no step; the newest level")}
                for series in accept(run, args.words[1])
            ]
    if args.json:
        terminal.write_json(told)
        return 0
    for one in told:
        word = "taken back" if args.undo else "accepted"
        terminal.write(f"{word}: {one['series']} (plan {one['plan']}): {one['text']}")
    if not args.undo:
        terminal.write(f"undo: boardwise nightly accept --undo {args.words[1]} --plan {run.name}")
    return 0


def _plan_of(store: Store, args: argparse.Namespace) -> Run:
    """The one plan that a name is of."""
    plans, name = store.runs(), args.words[1]
    if args.plan is not None and args.plan not in plans:
        raise ConfigError(unknown_name("plan", args.plan, plans))
    runs = [store.run(plan) for plan in plans if args.plan in (None, plan)]
    names = {run.name: accepted_names(run) if args.undo else known_names(run) for run in runs}
    found = [run for run in runs if name in names[run.name]]
    if not found:
        what = "accepted series or source" if args.undo else "series or source"
        raise ConfigError(unknown_name(what, name, set().union(*names.values())))
    if len(found) > 1:
        these = ", ".join(run.name for run in found)
        raise ConfigError(
            f"{name!r} is in the plans {these}; nothing was changed; say which with --plan NAME"
        )
    return found[0]
