"""Settings of the check, apart from torch so that the command line starts at once."""

from dsdm.config import Config


class ProbeConfig(Config):
    """Short trainings of a proxy on groups of candidates.

    As many tokens are trained on as 3 x groups x steps x batch_tokens: 1.2 million by default,
    whatever the pool and the model are.
    """

    groups: int = 8
    """Groups of each kind: candidates that score high, that score low, and random ones. Each group
    is one training."""
    share: float = 0.2
    """Share of the sample that each kind is drawn from; at most a third."""
    steps: int = 100
    """Optimizer steps of each training. A single one would favour the plain gradient."""
    batch_tokens: int = 512
    """Tokens in one step, one row at least."""
    lr_share: float = 0.3
    """Peak learning rate, as a share of the proxies' own."""

    def __post_init__(self) -> None:
        """Refuses what gives no correlation."""
        if self.groups < 2 or not 0 < self.share <= 1 / 3:
            raise ValueError("`probe` needs groups of 2 or more and share above 0, at most 1/3")
        if self.steps < 1 or self.batch_tokens < 1 or not self.lr_share > 0:
            raise ValueError("`probe` needs steps, batch_tokens and lr_share above 0")


class CheckConfig(Config):
    """How much is looked at to say whether the scores can be trusted."""

    rows: int = 2000
    """Rows of the pool, drawn at random, whose scores are looked at."""
    exact_rows: int = 128
    """Of these, rows on which the scorer is compared with the exact derivative."""
    tune_examples: int = 200
    """Examples of each target's tune part to measure, at most."""
    seed: int = 0
    """Draws the rows, the halves, the groups and the second sample for the curvature."""
    probe: ProbeConfig = ProbeConfig()
    """Short trainings of a proxy on groups of candidates, as an oracle."""

    def __post_init__(self) -> None:
        """Refuses samples that say nothing."""
        if min(self.rows, self.exact_rows, self.tune_examples) < 2:
            raise ValueError("`check` needs rows, exact_rows and tune_examples of 2 or more")
