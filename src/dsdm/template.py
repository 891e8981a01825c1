"""The commented experiment that `dsdm new` writes."""

from pathlib import Path

from dsdm.errors import ConfigError

TEMPLATE = Path(__file__).with_suffix(".yaml")


def write_template(path: Path) -> None:
    """Writes an experiment in which every setting is explained.

    Raises:
        ConfigError: the file exists, or can't be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already. Name another file, or delete it.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}).") from error
