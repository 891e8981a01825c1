"""The command line: `dsdm run`, `compare`, `check`, `status`, `select`, `report`, `new`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsdm.errors import ConfigError, DsdmError

if TYPE_CHECKING:
    from dsdm.stages import Workers

STANDARD_COMPARISON = (
    "{arms: [top, random, random@0.5, random@2, dsir, bm25, source-matched, bottom], seeds: 3}"
)
"""What `dsdm compare` does where the experiment does not say."""
OWN_FLAGS = (
    *("--help", "--verbose", "--until", "--redo", "--dry-run"),
    *("--workers", "--threads", "--ray"),
    *("--tokens", "--candidates", "--fraction", "--out"),
)
"""All that is no setting of the experiment."""
SETTINGS = """\
Any setting of the experiment may be given behind it, such as
  dsdm run my.yaml --proxies.count 4 --selection.fraction 0.05
Stages, in order: tokenizer examples targets overlap topics proxies directions check screening
  scores selection dataset baselines heldout tuning models evaluations shared
"""
DESCRIPTION = "Choose the training data that makes your language model better at your tasks."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 for an error that the user can act on."""
    # No download unless a hub id is named, and no warning about forked tokenizers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    words = list(sys.argv[1:] if arguments is None else arguments)
    own, settings = _split_overrides(words)
    parsed, stray = _parser().parse_known_args(own)
    logging.basicConfig(level=logging.INFO if parsed.verbose else logging.ERROR)
    try:
        overrides = _overrides([*stray, *settings])
        if overrides and not hasattr(parsed, "takes_overrides"):
            raise ConfigError(f"`dsdm {parsed.command}` does not take --{overrides[0][0]}.")
        parsed.function(parsed, overrides)
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


def _run(parsed: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    from dsdm.experiment import load_experiment

    experiment = load_experiment(parsed.file, overrides)
    if parsed.dry_run and (parsed.redo or parsed.until):
        raise ConfigError("--dry-run forecasts the whole run: leave --redo and --until out.")
    if parsed.dry_run:
        from dsdm.forecast import forecast

        print(forecast(experiment))
        return
    from dsdm.pipeline.report import write_run_report
    from dsdm.pipeline.summary import summary_lines
    from dsdm.stages import check_stage, redo, run_experiment

    check_stage(parsed.until)
    if parsed.redo:
        redo(experiment, parsed.redo)
    _quiet_libraries()
    workers = _workers(parsed)
    run = run_experiment(experiment, until=parsed.until, workers=workers, announce=_announce)
    write_run_report(run.folder)
    for line in summary_lines(run):
        print(line)


def _compare(parsed: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    from dsdm.experiment import load_experiment

    others = [(name, value) for name, value in overrides if not name.startswith("compare.")]
    if load_experiment(parsed.file, others).compare is None:
        overrides = [("compare", STANDARD_COMPARISON), *overrides]
    _run(parsed, overrides)


def _check(parsed: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    from dsdm.experiment import load_experiment
    from dsdm.stages import run_check
    from dsdm.stages.making.check import load_check
    from dsdm.trust.lines import check_lines

    experiment = load_experiment(parsed.file, overrides)
    _quiet_libraries()
    run = run_check(experiment, workers=_workers(parsed), announce=_announce)
    for line in check_lines(load_check(run.folder)):
        print(line)


def _workers(parsed: argparse.Namespace) -> "Workers":
    from dsdm.stages import Workers

    return Workers(parsed.workers, parsed.threads, parsed.ray)


def _quiet_libraries() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _announce(stage: str, made: int, total: int) -> None:
    if total:
        print(f"{stage:12} {made} made, {total - made} already done", file=sys.stderr, flush=True)


def _status(parsed: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    from dsdm.experiment import load_experiment
    from dsdm.stages import run_status

    experiment = load_experiment(parsed.file, overrides)
    for status in run_status(experiment):
        name = status.artifact.path.relative_to(experiment.folder)
        print(f"{status.state:8} {name}  {_in_short(status.changes)}".rstrip())


def _in_short(changes: Sequence[str]) -> str:
    more = f"; {len(changes) - 4} more" if len(changes) > 4 else ""
    return "; ".join(changes[:4]) + more


def _select(parsed: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    from dsdm.stages.reselect import reselect

    budget = {
        "tokens": parsed.tokens,
        "candidates": parsed.candidates,
        "fraction": parsed.fraction,
    }
    given = {name: value for name, value in budget.items() if value is not None}
    print(reselect(parsed.scores, given, overrides, parsed.out))


def _report(parsed: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    from dsdm.pipeline.report import write_run_report

    print(write_run_report(parsed.run))


def _new(parsed: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    from dsdm.template import write_template

    write_template(parsed.file)
    print(f"{parsed.file}: edit it, then `dsdm run {parsed.file}`.")


def _split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for argparse, and the settings, each with its value where that is a word apart."""
    own: list[str] = []
    settings: list[str] = []
    takes_value = False
    for word in words:
        name, equals, _ = word.partition("=")
        is_setting = name.startswith("--") and name != "--" and name not in OWN_FLAGS
        (settings if takes_value or is_setting else own).append(word)
        takes_value = is_setting and not equals and not takes_value
    return own, settings


def _overrides(rest: Sequence[str]) -> list[tuple[str, str]]:
    """`--train.lr 1e-3` and `--train.lr=1e-3` as pairs."""
    pairs = []
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word!r}: unexpected. Overrides look like --proxies.train.lr 1e-3.")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                raise ConfigError(f"--{name}: needs a value.")
            value = words.pop(0)
        pairs.append((name, value))
    return pairs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("dsdm", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true", help="log what libraries have to say")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="do every stage that is missing, in order")
    run.set_defaults(function=_run, takes_overrides=True)
    compare = commands.add_parser(
        "compare", help="run, and train models on the selection and on what others would select"
    )
    compare.set_defaults(function=_compare, takes_overrides=True)
    for command in (run, compare):
        _add_run_arguments(command)
        command.epilog = SETTINGS
        command.formatter_class = argparse.RawDescriptionHelpFormatter

    check = commands.add_parser("check", help="say whether the scores can be trusted, and why")
    check.add_argument("file", type=Path, help="experiment, a YAML file")
    _add_workers(check)
    check.set_defaults(function=_check, takes_overrides=True)
    check.epilog = "Any setting may be given behind it, such as --check.rows 4000."

    status = commands.add_parser("status", help="say what is done, missing or stale, and why")
    status.add_argument("file", type=Path, help="experiment, a YAML file")
    status.set_defaults(function=_status, takes_overrides=True)
    status.epilog = "Any setting may be given behind it: would it make something stale?"

    select = commands.add_parser("select", help="select again from finished scores")
    select.add_argument("scores", type=Path, help="scores folder of a run")
    budget = select.add_mutually_exclusive_group(required=True)
    budget.add_argument("--tokens", type=float, help="budget in tokens, such as 1e9")
    budget.add_argument("--candidates", type=int, help="budget in documents or rows")
    budget.add_argument("--fraction", type=float, help="budget as a share of the pool's tokens")
    select.add_argument("--out", type=Path, required=True, help="folder for selection and dataset")
    select.set_defaults(function=_select, takes_overrides=True)
    select.epilog = "Settings of `selection` may be given behind it, such as --source_cap 0.2."

    report = commands.add_parser("report", help="write the report of a run, one HTML file")
    report.add_argument("run", type=Path, help="folder of the run")
    report.set_defaults(function=_report)

    new = commands.add_parser("new", help="write a commented template of an experiment")
    new.add_argument("file", type=Path, help="YAML file to write")
    new.set_defaults(function=_new)
    return parser


def _add_run_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    _add_workers(command)
    add("file", type=Path, help="experiment, a YAML file")
    add("--until", metavar="STAGE", help="stop after this stage")
    add("--redo", metavar="STAGE", help="delete what a stage has made, and make it")
    add("--dry-run", action="store_true", help="say what it will cost, do nothing")


def _add_workers(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--workers", type=_positive, default=1, metavar="N", help="processes side by side")
    threads = "threads of each; by default the cores are shared out. Another number, other rounding"
    add("--threads", type=_positive, metavar="T", help=threads)
    on_ray = "make artifacts on the Ray cluster at this address, `auto`, or `local` to start one"
    add("--ray", metavar="ADDRESS", help=on_ray)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
