"""The command ``thalweg``.

What is heavy (torch, scikit-learn, plotly) is imported inside the commands that need it, so that ``thalweg --help``
answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from thalweg import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="thalweg",
    help="The minima of neural-network losses: find, classify and escape critical points.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thalweg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command(name="inspect")
def inspect_command(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py:FUNCTION", help="Returns (model, loss, inputs, targets) or an Objective.")
    ],
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Weights (.safetensors, or a state dict by torch.save); several give a course."),
    ] = None,
    polish: Annotated[
        bool, typer.Option(help="First go to the critical point nearby; a saddle stays a saddle.")
    ] = False,
    budget: Annotated[str | None, typer.Option(help="Time, such as 90s, 2m or 1h.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The step size of SGD in use, to compare.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="The mini-batch size in use, to compare.")] = None,
    certificates: Annotated[
        list[str] | None,
        typer.Option(help="A certificate to try, by name; repeat for more, or none. Default: all affordable."),
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Memory that one request may hold, such as 2GiB.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the verdict as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the verdict as a page.")] = None,
) -> None:
    """Say what point a network stands at, why it is stuck or slow, and what to do next."""
    with _errors_in_one_line():
        from contextlib import nullcontext

        from thalweg.commands.inspecting import check_outputs, deliver, run_inspect
        from thalweg.display import print_report
        from thalweg.foundation import memory_limit

        check_outputs(json, html)
        with memory_limit(memory) if memory is not None else nullcontext():
            result = run_inspect(
                target,
                weights or [],
                polish=polish,
                budget=budget,
                learning_rate=learning_rate,
                batch_size=batch_size,
                certificates=[name for name in certificates if name != "none"] if certificates else None,
            )
        deliver(result, lambda: print_report(result.report(figures=False)), json=json, html=html)
    if not result.complete:
        raise typer.Exit(_PARTIAL)


@app.command(name="demo")
def demo_command(
    folder: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training.")] = 15,
    seed: Annotated[int, typer.Option(help="Of weights and order of samples.")] = 0,
) -> None:
    """Train a small network on real digits, inspect it, take the advice, inspect again, write a page."""
    with _errors_in_one_line():
        from thalweg.commands.demo import run_demo

        run_demo(folder, epochs=epochs, seed=seed, say=typer.echo)


@app.command(name="survey")
def survey_command(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py:FUNCTION", help="Returns (model, loss, inputs, targets) or an Objective.")
    ],
    starts: Annotated[int, typer.Option(min=1, help="Searches the survey is to have in all.")] = 1000,
    storage: Annotated[str, typer.Option(help="The catalogue: a file, or a URL such as postgresql://...")] = (
        "catalogue.db"
    ),
    method: Annotated[str, typer.Option(help="flow, newton, newton-cg, lm or l-bfgs.")] = "flow",
    initializer: Annotated[str, typer.Option(help="glorot, or normal.")] = "glorot",
    seed: Annotated[int, typer.Option(help="Of the starts.")] = 0,
    max_iterations: Annotated[int | None, typer.Option(min=1, help="Of each search.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Starts searched at once by a worker.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; one for each core by default.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time, such as 90s, 2m or 1h.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a survey that is there already, or refuse.")] = True,
    html: Annotated[Path | None, typer.Option(help="Write tables and pictures as a page.")] = None,
) -> None:
    """Search for minima from many starts and keep all runs and points; stopped, the same command goes on."""
    with _errors_in_one_line():
        from thalweg.commands.inspecting import check_outputs
        from thalweg.commands.surveying import run_survey
        from thalweg.display import print_report

        check_outputs(None, html)
        found = run_survey(
            target,
            starts=starts,
            storage=storage,
            method=method,
            initializer=initializer,
            seed=seed,
            max_iterations=max_iterations,
            batch_size=batch_size,
            workers=workers,
            time_budget=budget,
            resume=resume,
        )
        print_report(found.report(figures=False))
        if html is not None:
            found.save_html(html)
    if found.stopped is not None:
        raise typer.Exit(_PARTIAL)


@app.command(name="study")
def study_command(
    name: Annotated[str | None, typer.Argument(help="The study; without one, those that there are.")] = None,
    preset: Annotated[str, typer.Option(help="quick (at most 90 s on two cores), or full (the paper's own scale).")] = (
        "quick"
    ),
    folder: Annotated[Path, typer.Option(help="Where pages, tables and finished parts go.")] = Path("studies"),
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; repeat for more.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Compute all parts anew.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All studies, and a page that leads to them.")] = False,
) -> None:
    """Compute the results of a paper anew and say claim by claim whether they hold; exit status 1 if one does not."""
    with _errors_in_one_line():
        from thalweg.commands.studying import listing, run_studies
        from thalweg.display import print_report
        from thalweg.foundation import InvalidInputError

        if name is None and not every:
            if preset != "quick" or change or fresh:
                raise InvalidInputError("say which study: its name, or --all")
            print_report(listing())
            return
        if name is not None and every:
            raise InvalidInputError(f"--all means every study; leave out {name!r}, or --all")
        try:
            holds = run_studies(
                None if every else name, preset, folder=folder, changes=change or [], fresh=fresh, say=typer.echo
            )
        except KeyboardInterrupt:
            raise typer.Exit(_PARTIAL) from None
    if not holds:
        raise typer.Exit(1)


catalogue_app = typer.Typer(help="Look into a catalogue of critical points.", no_args_is_help=True)
app.add_typer(catalogue_app, name="catalogue")
_Storage = Annotated[str, typer.Argument(help="The catalogue: a file, or a URL.")]


@catalogue_app.command(name="ls")
def catalogue_ls(storage: _Storage = "catalogue.db") -> None:
    """List objectives and surveys."""
    with _errors_in_one_line():
        from thalweg.commands.surveying import listing
        from thalweg.display import print_report

        print_report(listing(storage))


@catalogue_app.command(name="show")
def catalogue_show(
    storage: _Storage = "catalogue.db",
    point: Annotated[int | None, typer.Option(help="One point, with its parameters.")] = None,
    survey: Annotated[int | None, typer.Option(help="Only points where runs of this survey ended.")] = None,
) -> None:
    """Show the points of lowest value, or one point."""
    with _errors_in_one_line():
        from thalweg.commands.surveying import point_report
        from thalweg.display import print_report

        print_report(point_report(storage, point, survey))


@catalogue_app.command(name="export")
def catalogue_export(
    place: Annotated[Path, typer.Argument(help="A folder, or a .parquet file for the points alone.")],
    storage: Annotated[str, typer.Option(help="The catalogue: a file, or a URL.")] = "catalogue.db",
) -> None:
    """Write points and runs as Parquet."""
    with _errors_in_one_line():
        from thalweg.commands.surveying import export

        export(storage, place, typer.echo)


_PARTIAL = 3
"""Exit status of an inspection, a survey or a study stopped before its end; what was found is kept all the same."""


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """A user's mistake is one line on standard error and exit status 2, not a traceback."""
    from thalweg.foundation.errors import ThalwegError

    try:
        yield
    except ThalwegError as error:
        colour = None if os.environ.get("NO_COLOR") else typer.colors.RED
        typer.secho(f"thalweg: {error}", err=True, fg=colour)
        raise typer.Exit(2) from None


def main() -> None:
    """Run the command line; the entry point of the console script."""
    app()
