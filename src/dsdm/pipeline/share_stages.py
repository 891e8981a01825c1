"""The stage that copies finished parts of a run to where others find them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from dsdm.artifacts import Draft
from dsdm.data.share import Part
from dsdm.data.stores import upload_folder
from dsdm.pipeline.data_stages import tokenizer_work
from dsdm.pipeline.model_stages import directions_work, proxies_work
from dsdm.pipeline.run import Run
from dsdm.pipeline.select_stages import dataset_work, merged_scores_work, selection_work
from dsdm.pipeline.work import Work, fingerprints, progress

PARTS: dict[Part, Callable[[Run], Iterator[Work]]] = {
    "tokenizer": tokenizer_work,
    "proxies": proxies_work,
    "directions": directions_work,
    "scores": merged_scores_work,
    "selection": selection_work,
    "dataset": dataset_work,
}


def shared_work(run: Run) -> Iterator[Work]:
    """One copy for each part: what is in the folder says that it was made."""
    share = run.experiment.share
    for part in share.parts if share.to is not None else ():
        works = list(PARTS[part](run))
        path = run.folder / "shared" / part
        make = partial(_upload, run, works)
        config = {"to": share.to}
        yield Work("shared", path, config, fingerprints(works), make, follows_inputs=True)


def _upload(run: Run, works: Sequence[Work], draft: Draft) -> None:
    to = run.experiment.share.to
    assert to is not None
    draft.counts["files"] = 0  # not the bytes, which those of the costs are among
    with progress(f"shared/{draft.target.name}", None, "bytes") as advance:
        for work in works:
            name = work.path.relative_to(run.data_folder).as_posix()
            files = upload_folder(work.path, f"{to.rstrip('/')}/{name}", advance)
            draft.counts["files"] += files
