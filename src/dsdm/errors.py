"""Everything that dsdm raises on purpose.

DsdmError                what is wrong, where, the value seen, what to do
├── ConfigError          the YAML file or an override
├── DataError            the pool, a target, or a record of either
├── ModelError           a model or tokenizer that can't be used as asked
├── NumericalError       NaN, a scorer that disagrees with the exact derivative
└── ArtifactError        a run folder: stale, made with another config, unwritable

The command line prints the message without a traceback and exits with code 2.
"""


class DsdmError(Exception):
    """Base of all errors that a user can act on."""


class ConfigError(DsdmError):
    """A configuration file or override is wrong."""


class DataError(DsdmError):
    """Pool or target data can't be used."""


class ModelError(DsdmError):
    """A model or tokenizer can't be used as asked."""


class NumericalError(DsdmError):
    """A computation gave numbers that must not be used."""


class ArtifactError(DsdmError):
    """A run folder can't be used or written as asked."""
