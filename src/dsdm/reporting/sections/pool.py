"""What the pool holds, and the records that were rejected."""

from collections import Counter
from typing import Any

from dsdm.data.packing import read_rejected
from dsdm.reporting.section import section
from dsdm.reporting.view import RunView

COUNTED = ("documents", "rows", "tokens", "duplicates")


@section("pool", order=110, title="Pool")
def pool(run: RunView) -> dict[str, Any] | None:
    """Counts of the whole pool, and rejected records by reason, the most frequent first.

    There are none before all of it is packed.
    """
    manifest = run.manifest("duplicates")
    if manifest is None:
        return None
    folders = [*run.finished("examples"), run.folder / "duplicates"]
    reasons = Counter(one.reason for folder in folders for one in read_rejected(folder))
    counts = {name: manifest.counts[name] for name in COUNTED} | {"rejected": reasons.total()}
    rejections = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    return {"counts": counts, "rejections": rejections}
