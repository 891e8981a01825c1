"""What is copied to an object store."""

from typing import Literal

from dsdm.config import Config

Part = Literal["tokenizer", "proxies", "directions", "scores", "selection", "dataset"]


class ShareConfig(Config, frozen=True):
    """Copies of a run's parts where others find them."""

    to: str | None = None
    """Folder that parts are copied to once they are finished, as an fsspec URL such as
    s3://bucket/folder; null: nowhere. Keys belong in the environment, not here."""
    parts: tuple[Part, ...] = ("dataset",)
    """Which parts; each has the name there that it has in the run's folder."""
