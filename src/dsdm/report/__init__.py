"""One self-contained HTML page about a run: its sections, figures, and how they are drawn."""
