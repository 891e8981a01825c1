"""The commands, on a whole experiment of two seconds."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dsdm import cli
from dsdm.artifacts import PER_RUN
from dsdm.cli import main
from dsdm.experiment import Experiment, load_experiment, record_experiment
from dsdm.lm import model
from dsdm.stages import STAGES, pool
from tests.tiny_runs import Dsdm, add_pool_file, write_data, write_experiment

HEAVY = ("torch", "transformers", "datasets", "scipy", "lm_eval")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment file of a finished run, which tests only read."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder)
    path = write_experiment(folder)
    assert main(["run", str(path)]) == 0
    return path


def states(dsdm: Dsdm, *arguments: object) -> dict[str, str]:
    """State by artifact, as `dsdm status` prints it."""
    code, out, _ = dsdm("status", *arguments)
    assert code == 0
    return {line.split()[1]: line.split()[0] for line in out.splitlines()}


def content(folder: Path, *parts: str) -> dict[str, bytes]:
    """The files of some stages, apart from what they cost."""
    files = [file for part in parts for file in (folder / "run" / part).rglob("*")]
    return {str(f): f.read_bytes() for f in files if f.is_file() and f.name not in PER_RUN}


@pytest.mark.parametrize("arguments", [["--help"], ["status", "FILE"], ["new", "NEW"], ["schema"]])
def test_quick_commands_import_nothing_heavy(
    finished: Path, tmp_path: Path, arguments: list[str]
) -> None:
    places = {"FILE": str(finished), "NEW": str(tmp_path / "new.yaml")}
    words = [places.get(word, word) for word in arguments]
    script = (
        "import sys\nfrom dsdm.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        f"sys.exit(str([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.stderr.decode().strip() == "[]"
    assert done.stdout


def test_a_run_makes_every_stage_and_says_what_it_selected(tiny: Path, dsdm: Dsdm) -> None:
    code, out, err = dsdm("run", tiny)
    assert code == 0
    assert "selected  " in out
    assert "proxies      1 made, 0 already done" in err
    (chosen,) = (tiny.parent / "run" / "dataset").glob("*.parquet")
    assert "dsdm_score" in pq.read_schema(chosen).names
    assert set(states(dsdm, tiny).values()) == {"done"}
    before = content(tiny.parent, *STAGES)
    code, _, err = dsdm("run", tiny)
    assert code == 0
    assert "proxies      0 made, 1 already done" in err
    assert content(tiny.parent, *STAGES) == before


def test_models_are_tried_only_where_one_is_left_to_train(
    finished: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = "{arms: [random], model: {config: {model_type: nonsense}}}"
    code, _, err = dsdm("run", finished, "--compare", bad)
    assert code == 2
    assert "cannot be made" in err
    assert "examples  " not in err

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was made")

    monkeypatch.setattr(model, "load_model", fail)
    assert dsdm("run", finished)[0] == 0


def test_settings_may_stand_anywhere(finished: Path, dsdm: Dsdm) -> None:
    for words in (
        ("--proxies.epochs", "3.0", finished),
        ("--proxies.epochs=3.0", finished),
        (finished, "--proxies.epochs", "3.0", "--seed", "0"),
    ):
        assert states(dsdm, *words)["proxies/0"] == "stale"


def test_help_names_the_stages() -> None:
    assert cli.STAGES.partition("in order:")[2].split() == list(STAGES)


def test_what_asks_for_states_and_costs_does_not_read_the_pool(
    tiny: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: object) -> str:
        raise AssertionError("a pool may be terabytes")

    monkeypatch.setattr(pool, "content_fingerprint", read)
    assert set(states(dsdm, tiny).values()) == {"missing"}
    assert dsdm("run", tiny, "--dry-run")[0] == 0


def test_a_run_stops_after_the_stage_that_was_named(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "targets")[0] == 0
    found = states(dsdm, tiny)
    assert found["targets/words"] == found["examples/00001"] == "done"
    assert found["overlap/all"] == found["proxies/0"] == found["selection"] == "missing"


def test_nothing_is_done_before_the_first_run(tiny: Path, dsdm: Dsdm) -> None:
    assert set(states(dsdm, tiny).values()) == {"missing"}
    assert not (tiny.parent / "run").exists()


def test_a_changed_setting_makes_its_stage_and_the_later_ones_stale(
    finished: Path, dsdm: Dsdm
) -> None:
    found = states(dsdm, finished, "--proxies.epochs", "3.0")
    assert found["examples/00000"] == found["targets/words"] == "done"
    assert found["proxies/0"] == found["directions/ekfac/0"] == found["scores/all"] == "stale"
    found = states(dsdm, finished, "--selection.fraction=0.3")
    assert found["scores/all"] == "done"
    assert found["selection"] == found["dataset"] == "stale"
    _, out, _ = dsdm("status", finished, "--selection.fraction=0.3")
    assert "stale    selection  selection.fraction: 0.2 -> 0.3" in out


def test_a_weight_of_a_target_does_not_touch_its_rows(finished: Path, dsdm: Dsdm) -> None:
    target = '[{"name": "words", "file": "%s", "weight": 2}]' % (finished.parent / "target.jsonl")
    found = states(dsdm, finished, "--targets", target)
    assert found["targets/words"] == found["proxies/0"] == "done"
    assert found["directions/ekfac/0"] == "stale"


def test_a_stage_is_made_again_where_that_is_asked(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny)[0] == 0
    before = content(tiny.parent, "selection", "dataset")
    code, _, err = dsdm("run", tiny, "--redo", "selection")
    assert code == 0
    assert "selection    1 made, 0 already done" in err
    assert "dataset      0 made, 1 already done" in err
    assert content(tiny.parent, "selection", "dataset") == before


def test_a_pool_file_that_is_added_is_named_with_the_ways_on(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny)[0] == 0
    before = states(dsdm, tiny)
    add_pool_file(tiny.parent, "0_new", seed=2)
    assert states(dsdm, tiny) == before
    code, _, err = dsdm("run", tiny)
    assert code == 2
    assert "0_new.jsonl" in err
    assert f"dsdm score {tiny.parent / 'run'} FILES --out DIR" in err


def test_a_pool_file_that_is_gone_is_missed_only_where_it_is_read(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "scores")[0] == 0
    (tiny.parent / "pool" / "b.jsonl").unlink()
    assert dsdm("run", tiny, "--until", "selection")[0] == 0
    code, _, err = dsdm("run", tiny)  # whole documents are read once more
    assert code == 2
    assert "b.jsonl: is part of the pool that this run began with" in err


def test_another_estimator_leaves_the_first_ones_scores_alone(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "scores")[0] == 0
    path = tiny.parent / "run" / "scores" / "all" / "scores.parquet"
    alone = pq.read_table(path)
    before = content(tiny.parent, "proxies", "directions/ekfac", "scores/ekfac")
    both = ("--directions.estimators", "[ekfac, gradient]")
    code, _, err = dsdm("run", tiny, "--until", "scores", *both)
    assert code == 0
    assert "directions   1 made, 1 already done" in err
    assert content(tiny.parent, "proxies", "directions/ekfac", "scores/ekfac") == before
    table = pq.read_table(path)
    assert table.column_names[-4:] == ["ekfac", "gradient", "ekfac.0.mix", "gradient.0.mix"]
    assert table.select(alone.column_names).equals(alone)


def test_a_comparison_trains_and_evaluates_its_arms(tiny: Path, dsdm: Dsdm) -> None:
    changes = ("--compare.epochs", "1", "--compare.train.batch_tokens", "128")
    code, out, _ = dsdm("run", tiny, *changes)
    assert code == 0
    assert "random" in out
    losses = tiny.parent / "run" / "evaluations" / "report" / "top-0" / "losses.json"
    assert json.loads(losses.read_text())["words"] > 0


def test_a_comparison_without_a_section_is_the_standard_one_whatever_else_is_set(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Experiment] = []

    def run(file: Path, settings: cli.Settings, **options: object) -> None:
        seen.append(load_experiment(file, settings))

    monkeypatch.setattr(cli.run, "callback", run)
    assert main(["compare", str(finished), "--compare.seeds", "5"]) == 0
    assert main(["compare", str(finished), "--compare", "{arms: [top]}"]) == 0
    standard, own = (experiment.compare for experiment in seen)
    assert standard is not None
    assert own is not None
    assert standard.seeds == 5
    assert "source-matched" in standard.arms
    assert own.arms == ("top",)


def test_compared_models_are_trained_as_the_proxies_unless_told_otherwise(finished: Path) -> None:
    proxies = load_experiment(finished, [("compare", "{}")])
    assert proxies.compared_training == proxies.proxies.train
    own = load_experiment(finished, [("compare", "{train: {lr: 0.5}}")])
    assert own.compared_training.lr == 0.5


def test_a_comparison_stays_on_record_when_a_later_command_has_none(
    finished: Path, dsdm: Dsdm, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.parent / "run", folder)
    compare = "{arms: [ekfac, random], epochs: 1}"
    again = ("run", finished, "--run", folder, "--until", "dataset")
    assert dsdm(*again, "--compare", compare)[0] == 0
    assert dsdm(*again)[0] == 0
    recorded = load_experiment(folder / "experiment.yaml").compare
    assert recorded is not None
    assert recorded.arms == ("ekfac", "random")
    # Its arms need scores that such a run does not make.
    other = load_experiment(finished, [("directions.estimators", "[gradient]")])
    record_experiment(other, folder / "experiment.yaml")
    assert load_experiment(folder / "experiment.yaml").compare is None


def test_a_stage_that_is_misspelt_deletes_nothing(finished: Path, dsdm: Dsdm) -> None:
    before = content(finished.parent, "selection")
    code, _, err = dsdm("run", finished, "--redo", "selection", "--until", "datset")
    assert code == 2
    assert "'datset' is not a stage" in err
    assert content(finished.parent, "selection") == before
    code, _, err = dsdm("run", finished, "--dry-run", "--redo", "selection")
    assert code == 2
    assert "leave --redo and --until out" in err


def test_a_new_experiment_can_be_written_and_loaded(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    path = tmp_path / "my.yaml"
    code, out, _ = dsdm("new", path)
    assert code == 0
    assert f"dsdm run {path}" in out
    changes = ("--run", tmp_path / "run", "--pool.files", f"[{tmp_path / 'pool'}]")
    assert set(states(dsdm, path, *changes).values()) == {"missing"}
    assert dsdm("new", path)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "FILE", "--until", "scroes"], "'scroes' is not a stage. Stages are tokenizer"),
        (["run", "FILE", "--redo", "all"], "'all' is not a stage"),
        (["run", "FILE", "word"], "unexpected extra argument (word). See `dsdm run --help`."),
        (["run", "FILE", "--proxies.count"], "--proxies.count: needs a value."),
        (["run", "--proxies.count", "--dry-run", "FILE"], "--proxies.count: needs a value."),
        (["run", "FILE", "--dryrun"], "No such option '--dryrun'. Did you mean '--dry-run'?"),
        (["run", "FILE", "--verbose"], "--verbose stands before run"),
        (["run", "FILE", "--workers", "0"], "'--workers': 0 is not in the range"),
        (["run"], "Missing argument 'FILE'. See `dsdm run --help`."),
        (["rn", "FILE"], "No such command 'rn'. Did you mean 'run'?"),
        (["report", "RUN", "--proxies.count", "3"], "No such option '--proxies.count'"),
        (["select", "RUN"], "Missing option '--out'"),
        (["new", "ABSENT", "--plugin", "no_such_module"], "`no_such_module` cannot be imported"),
        (["verify", "ABSENT"], "is no run folder"),
        (["new", "FILE"], "exists already"),
        (["run", "absent.yaml"], "absent.yaml: cannot be read (No such file"),
    ],
)
def test_a_command_that_makes_no_sense_says_so(
    finished: Path, dsdm: Dsdm, arguments: list[str], message: str
) -> None:
    folder = finished.parent
    places = {"FILE": finished, "RUN": folder / "run", "ABSENT": folder / "absent"}
    code, out, err = dsdm(*(places.get(word, word) for word in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("dsdm: ")
    assert message in err


def test_an_interruption_is_no_traceback(
    tiny: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dsdm.stages.run_experiment", interrupt)
    code, _, err = dsdm("run", tiny)
    assert (code, err) == (130, "dsdm: stopped; the same command goes on from here.\n")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    script = "import sys; from dsdm.cli import main; sys.exit(main(['schema']))"
    done = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert done.stdout is not None
    assert done.stderr is not None
    done.stdout.close()
    assert (done.stderr.read(), done.wait()) == (b"", 0)
    done.stderr.close()


def test_without_a_verb_the_help_is_shown(dsdm: Dsdm) -> None:
    code, out, err = dsdm()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: dsdm [OPTIONS] COMMAND")


def test_the_version_is_the_package_s(dsdm: Dsdm) -> None:
    assert dsdm("--version") == (0, f"dsdm {version('dsdm')}\n", "")


def test_a_shell_completes_verbs(dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"_DSDM_COMPLETE": "bash_complete", "COMP_WORDS": "dsdm sta", "COMP_CWORD": "1"}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    assert dsdm()[:2] == (0, "plain,status\n")


def test_a_schema_is_printed_as_json(dsdm: Dsdm) -> None:
    code, out, _ = dsdm("schema")
    assert code == 0
    assert json.loads(out)["$ref"] == "#/$defs/Experiment"


def test_a_run_is_verified_to_the_last_byte(finished: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.parent / "run", folder)
    code, out, _ = dsdm("verify", folder)
    assert code == 0
    assert "artifacts, all as they were written" in out
    tokens = next((folder / "examples").rglob("*.npy"), None) or next(folder.rglob("*.parquet"))
    stat = tokens.stat()
    content = bytearray(tokens.read_bytes())
    content[-1] ^= 1
    tokens.write_bytes(content)
    os.utime(tokens, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code, _, err = dsdm("verify", folder)
    assert code == 2
    assert f"{tokens}: is damaged: other bytes" in err
