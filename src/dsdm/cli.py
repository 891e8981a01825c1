"""The command line: one function a verb, each of which imports what it needs."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dsdm.errors import ArtifactError, ConfigError, DsdmError

if TYPE_CHECKING:
    from dsdm.stages import Workers

STANDARD_COMPARISON = (
    "{arms: [top, random, random@0.5, random@2, dsir, bm25, source-matched, bottom], seeds: 3}"
)
"""What `dsdm compare` does where the experiment does not say."""
STAGES = """\b
Any setting of the experiment may be given too, such as
  dsdm run my.yaml --proxies.count 4 --selection.fraction 0.05
Stages, in order: tokenizer examples duplicates targets overlap topics proxies
  directions check screening scores baselines selection dataset heldout tuning
  models evaluations shared
"""
COMPLETE = "_DSDM_COMPLETE"
"""Environment variable by which shells ask for completions."""

Settings = Sequence[tuple[str, str]]
"""Settings given on the command line: dotted name and value."""
Verb = TypeVar("Verb", bound=Callable[..., None])


class SettingsVerb(click.Command):
    """A verb that takes settings, `--a.b value` or `--a.b=value`, anywhere among its own options.

    Its function gets them as `settings`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Takes the settings out of `args` and leaves the rest to click."""
        from difflib import get_close_matches

        own = [option for parameter in self.get_params(ctx) for option in parameter.opts]
        of_group = [option for parameter in dsdm.params for option in parameter.opts]
        rest: list[str] = []
        settings: list[tuple[str, str]] = []
        words = iter(args)
        for word in words:
            name, equals, value = word.partition("=")
            if not name.startswith("--") or name == "--" or name in own:
                rest.append(word)
                continue
            if name in of_group:
                raise click.UsageError(f"{name} stands before {ctx.info_name}.", ctx)
            if near := get_close_matches(name, own, cutoff=0.85):
                raise click.NoSuchOption(name, possibilities=near, ctx=ctx)
            if not equals:
                value = next(words, "--")
                if value.startswith("--"):
                    raise click.UsageError(f"{name}: needs a value.", ctx)
            settings.append((name[2:], value))
        ctx.params["settings"] = settings
        return super().parse_args(ctx, rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0, or 2 for an error that the user can act on, or 130 after an interruption.
    """
    # No download unless a hub id is named, and no warning about forked tokenizers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if asked := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(dsdm, {}, "dsdm", COMPLETE, asked)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Exit is how click ends after --help and --version.
        with suppress(click.exceptions.Exit), dsdm.make_context("dsdm", words) as context:
            dsdm.invoke(context)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        message = error.format_message()
        stop = "" if message[-1] in ".?" else "."
        where = error.ctx.command_path if error.ctx else "dsdm"
        print(f"dsdm: {message}{stop} See `{where} --help`.", file=sys.stderr)
        return 2
    except DsdmError as error:
        print(f"dsdm: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever reads the output has seen enough; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("dsdm: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dsdm", message="%(prog)s %(version)s")
@click.option("--verbose", is_flag=True, help="Log what libraries have to say.")
def dsdm(verbose: bool) -> None:
    """Choose the training data that makes your language model better at your tasks."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)


PATH: Any = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
FILE = click.argument("file", type=PATH)
RUN = click.argument("run", type=PATH)
OUT = click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder for the results.")
PLUGIN = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="MODULE",
    help="Show the settings of a plugin too.",
)


def _run_options(verb: Verb) -> Verb:
    """Adds the options of verbs that do a whole run."""
    options = (
        click.option("--until", metavar="STAGE", help="Stop after this stage."),
        click.option("--redo", metavar="STAGE", help="Delete what a stage has made, and make it."),
        click.option("--dry-run", is_flag=True, help="Say what it will cost, do nothing."),
    )
    for option in reversed(options):
        verb = option(verb)
    return verb


def _worker_options(verb: Verb) -> Verb:
    """Adds the options of verbs that make artifacts."""
    threads = (
        "Threads of each; by default those that others leave free when the run begins. Another "
        "number, other rounding."
    )
    on_ray = "Make artifacts on the Ray cluster at this address, `auto`, or `local` to start one."
    options = (
        click.option(
            "--workers", type=COUNT, default=1, metavar="N", help="Processes side by side."
        ),
        click.option("--threads", type=COUNT, metavar="T", help=threads),
        click.option("--ray", metavar="ADDRESS", help=on_ray),
    )
    for option in reversed(options):
        verb = option(verb)
    return verb


@dsdm.command(cls=SettingsVerb, epilog=STAGES)
@FILE
@_run_options
@_worker_options
def run(
    file: Path,
    settings: Settings,
    until: str | None,
    redo: str | None,
    dry_run: bool,
    workers: int,
    threads: int | None,
    ray: str | None,
) -> None:
    """Do every stage that is missing, in order."""
    from dsdm.experiment import load_experiment

    experiment = load_experiment(file, settings)
    if dry_run and (redo or until):
        raise ConfigError("--dry-run forecasts the whole run: leave --redo and --until out.")
    if dry_run:
        from dsdm.forecast import forecast

        print(forecast(experiment))
        return
    from dsdm import stages
    from dsdm.reporting.page import write_run_report
    from dsdm.reporting.summary import summary_lines
    from dsdm.reporting.view import RunView

    stages.check_stage(until)
    if redo:
        stages.redo(experiment, redo)
    on = _workers(experiment.folder, workers, threads, ray)
    done = stages.run_experiment(experiment, until=until, workers=on, announce=_announce)
    write_run_report(done.folder)
    for line in summary_lines(RunView(done.folder, done.experiment)):
        print(line)


@dsdm.command(cls=SettingsVerb, epilog=STAGES)
@FILE
@_run_options
@_worker_options
@click.pass_context
def compare(ctx: click.Context, /, file: Path, settings: Settings, **options: Any) -> None:
    """Run, and train models on what dsdm and others would select."""
    from dsdm.experiment import load_experiment

    others = [(name, value) for name, value in settings if not name.startswith("compare.")]
    if load_experiment(file, others).compare is None:
        settings = [("compare", STANDARD_COMPARISON), *settings]
    ctx.invoke(run, file=file, settings=settings, **options)


@dsdm.command(cls=SettingsVerb, epilog="Any setting may be given too, such as --check.rows 4000.")
@FILE
@_worker_options
def check(
    file: Path, settings: Settings, workers: int, threads: int | None, ray: str | None
) -> None:
    """Say whether the scores can be trusted, and why."""
    from dsdm import stages
    from dsdm.checking.lines import check_lines
    from dsdm.experiment import load_experiment
    from dsdm.stages.check import load_check

    experiment = load_experiment(file, settings)
    on = _workers(experiment.folder, workers, threads, ray)
    done = stages.run_check(experiment, workers=on, announce=_announce)
    for line in check_lines(load_check(done.folder)):
        print(line)


@dsdm.command(
    cls=SettingsVerb, epilog="Any setting may be given too: would it make something stale?"
)
@FILE
def status(file: Path, settings: Settings) -> None:
    """Say what is done, missing or stale, and why."""
    from dsdm.experiment import load_experiment
    from dsdm.stages import run_status

    experiment = load_experiment(file, settings)
    for found in run_status(experiment):
        name = found.artifact.path.relative_to(experiment.folder)
        more = f"; {len(found.changes) - 4} more" if len(found.changes) > 4 else ""
        print(f"{found.state:8} {name}  {'; '.join(found.changes[:4])}{more}".rstrip())


@dsdm.command(
    cls=SettingsVerb,
    epilog="Settings of `selection` may be given too, such as --source_cap 0.2. "
    "Without a budget it is the run's own.",
)
@click.argument("tables", type=PATH, nargs=-1, required=True, metavar="RUN [DIR]...")
@OUT
@click.option("--tokens", metavar="N", help="Budget in tokens, such as 1.5M.")
@click.option("--candidates", metavar="N", help="Budget in documents or rows.")
@click.option("--fraction", metavar="X", help="Budget as a share of the pool's tokens.")
@click.option("--estimator", metavar="NAME", help="Whose scores select.")
@click.option("--format", metavar="NAME", help="What the dataset is written as.")
def select(
    tables: tuple[Path, ...],
    settings: Settings,
    out: Path,
    estimator: str | None,
    format: str | None,
    **budget: str | None,
) -> None:
    """Select again from the scores of a RUN, and of files scored after it: RUN DIR ..."""
    from dsdm.stages.reselect import reselect

    overrides = [
        (f"selection.{name.removeprefix('selection.')}", value) for name, value in settings
    ]
    named = {f"selection.{name}": value for name, value in budget.items()}
    named |= {"estimator": estimator, "export.format": format}
    overrides += [(name, value) for name, value in named.items() if value is not None]
    print(reselect(tables, overrides, out))


@dsdm.command()
@RUN
@click.argument("files", nargs=-1, required=True)
@OUT
@_worker_options
def score(
    run: Path,
    files: tuple[str, ...],
    out: Path,
    workers: int,
    threads: int | None,
    ray: str | None,
) -> None:
    """Score FILES that came after a finished RUN, by what it has learned."""
    from dsdm.stages.later import score_later

    on = _workers(run, workers, threads, ray)
    print(score_later(run, files, out, workers=on, announce=_announce))


@dsdm.command()
@RUN
def report(run: Path) -> None:
    """Write the report of a RUN, one HTML file."""
    from dsdm.reporting.page import write_run_report

    print(write_run_report(run))


@dsdm.command()
@RUN
def verify(run: Path) -> None:
    """Read all of a RUN and say what is not as it was written."""
    from dsdm import artifacts

    if not (run / "experiment.yaml").is_file():
        raise ArtifactError(f"{run}: is no run folder, it has no experiment.yaml.")
    folders = artifacts.finished(run)
    for folder in folders:
        artifacts.check_contents(folder)  # the manifest itself
        if manifest := artifacts.load_manifest(folder):
            artifacts.verify(folder, manifest)
    print(f"{run}: {len(folders)} artifacts, all as they were written.")


@dsdm.command()
@FILE
@click.option("--minimal", is_flag=True, help="Write only what must be filled in.")
@click.option("--finetune", is_flag=True, help="Start from the settings for a fine-tune.")
@PLUGIN
def new(file: Path, minimal: bool, finetune: bool, plugins: tuple[str, ...]) -> None:
    """Write an experiment with the help and default of all settings."""
    from dsdm.experiment import Experiment, import_plugins
    from dsdm.template import FINETUNING, PRETRAINING, write_template

    import_plugins(plugins)
    write_template(file, Experiment, FINETUNING if finetune else PRETRAINING, minimal)
    print(f"{file}: edit it, then `dsdm run {file}`.")


@dsdm.command()
@PLUGIN
def schema(plugins: tuple[str, ...]) -> None:
    """Print the JSON schema of experiments, for editors."""
    import json

    from dsdm.experiment import Experiment, import_plugins
    from dsdm.template import make_schema

    import_plugins(plugins)
    print(json.dumps(make_schema(Experiment), indent=2))


def _workers(folder: Path, workers: int, threads: int | None, ray: str | None) -> "Workers":
    """Who makes the artifacts of the run in `folder`, with the bars of libraries off."""
    from dsdm.threads import choose_threads, thread_environment

    given = os.environ.get("OMP_NUM_THREADS", "")
    initial = int(given) if given.isdecimal() and int(given) else None
    threads = choose_threads(folder, threads, initial=initial, workers=workers)
    # Before torch is loaded, which reads them.
    os.environ.update(thread_environment(threads))
    from transformers.utils import logging as transformers_logging

    from dsdm.stages import Workers

    transformers_logging.disable_progress_bar()
    return Workers(workers, threads, ray)


def _announce(stage: str, made: int, total: int) -> None:
    if total:
        print(f"{stage:12} {made} made, {total - made} already done", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
