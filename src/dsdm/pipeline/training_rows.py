"""Which rows of the pool each arm of a comparison is trained on, and in which order."""

import math

import numpy as np

from dsdm.baselines.config import BASELINE_NAMES
from dsdm.baselines.controls import best_source, source_matched
from dsdm.baselines.random import random_scores
from dsdm.evaluation.arms import Arm, cut_to_tokens, only_budget, scaled_selection
from dsdm.pipeline.baseline_stages import baseline_work
from dsdm.pipeline.run import Run
from dsdm.pipeline.scores_table import SCORES, load_scores
from dsdm.pipeline.select_stages import refusal, run_scores, target_scores
from dsdm.selection import Scores, SelectionConfig, select


def training_order(run: Run, arm: Arm, seed: int) -> np.ndarray:
    """The rows that an arm is trained on, in order; every arm has as many tokens, but for a row.

    As many conversations, where so many of them are selected: people count them, and completions
    differ in length by more than arms should. `all` has as many epochs.

    Args:
        run: With the scores to rank by.
        arm: What to train on.
        seed: Draws random's rows and the order.
    """
    from dsdm.lm.train import epoch_order

    compare, lengths = run.compare, _sizes(run)
    budget = int(compare.epochs * arm.budget * _selected_size(run))
    if arm.kind in ("random", "all"):
        kept = np.flatnonzero(allowed_candidates(run)[run.examples.candidate_of_row])
        if arm.kind == "all":
            return epoch_order(kept, arm.budget * (arm.epochs or compare.epochs), seed)
        rows = np.random.default_rng(seed).permutation(kept)
        # Fresh rows while the pool lasts.
        passes = float(math.ceil(max(1.0, budget / max(1, lengths[rows].sum()))))
    else:
        rows = np.flatnonzero(np.isin(run.examples.candidate_of_row, _chosen(run, arm, seed)))
        passes = 1.5 * budget / lengths[rows].sum()
    return cut_to_tokens(epoch_order(rows, passes, seed), lengths, budget)


def allowed_candidates(run: Run) -> np.ndarray:
    """Which candidates of the whole pool an arm may be trained on, bool, shape (candidates,)."""
    allowed = np.ones(run.examples.num_candidates, bool)
    allowed[run.droppable] = False
    allowed[held_out(run)] = False
    return allowed


def held_out(run: Run) -> np.ndarray:
    """Sorted candidates that no arm is trained on."""
    count = run.compare.pool_slice
    if not count:
        return np.zeros(0, np.int64)
    from dsdm.evaluation.pool_slice import held_out_candidates

    # The pool of the first run: a slice that moved with the pool would be trained on.
    of_row = run.examples.candidate_of_row[: run.num_first_rows]
    return held_out_candidates(of_row, run.num_first_candidates, count, seed=0)


def arm_scores(run: Run, arm: Arm) -> Scores:
    """The scores that an arm ranks by, or that its control is like."""
    if arm.method in BASELINE_NAMES:
        work = baseline_work(run, arm.method, arm.target)
        return load_scores(work.path / SCORES, arm.method, work.fingerprint)
    if arm.target is None:
        return run_scores(run, arm.method or run.experiment.selecting_estimator)
    return target_scores(run, arm.method, arm.target)


def _chosen(run: Run, arm: Arm, seed: int) -> np.ndarray:
    """The candidates that a `top`, `bottom`, repeated or control arm repeats."""
    more = arm.times_selected(run.compare.epochs)
    selection = scaled_selection(run.experiment.selection, more)
    scores = arm_scores(run, arm)
    if arm.kind in ("top", "bottom"):
        is_bottom = arm.kind == "bottom"
        return _select(run, scores, selection, is_top=not is_bottom, bottom=is_bottom)
    if arm.kind == "source-matched":
        chosen = _select(run, scores, selection, is_top=True)
        scores = source_matched(scores, chosen, seed, allowed_candidates(run))
    elif arm.kind == "best-source":
        wanted = int(more * _selected_tokens(run))
        scores = best_source(scores, wanted, seed, allowed_candidates(run))
    elif arm.kind == "repeated":
        scores = random_scores(
            scores.num_tokens, scores.sources, scores.source_names, seed, scores.fingerprint
        )
    # A control is a draw already: caps or more noise would make it one of something else.
    return _select(run, scores, only_budget(selection), is_top=False)


def _select(
    run: Run, scores: Scores, config: SelectionConfig, *, is_top: bool, bottom: bool = False
) -> np.ndarray:
    refuse = refusal(run, config, near_duplicates=is_top, also=held_out(run).tolist())
    return select(scores, config, bottom=bottom, is_refused=refuse)


def _sizes(run: Run) -> np.ndarray:
    """What each row counts for in an arm's budget."""
    return np.ones(run.examples.num_rows, np.int64) if _by_number(run) else run.examples.lengths


def _by_number(run: Run) -> bool:
    """Whether arms are of equal numbers of rows instead of tokens."""
    experiment = run.experiment
    is_chat = experiment.pool.format == "conversations"
    return is_chat and experiment.selection.candidates is not None


def _selected_size(run: Run) -> int:
    candidates = run.experiment.selection.candidates
    if _by_number(run) and candidates is not None:
        return candidates
    return _selected_tokens(run)


def _selected_tokens(run: Run) -> int:
    selection = run.experiment.selection
    total = run.examples.num_tokens
    if selection.tokens is not None:
        return int(selection.tokens)
    if selection.fraction is not None:
        return int(selection.fraction * total)
    assert selection.candidates is not None
    return int(selection.candidates * total / run.examples.num_candidates)
