"""The report of a run: one self-contained HTML page of sections, and a summary for a terminal.

A section is a module and a template of the same name beside it. The module registers a function
that collects plain data from a `RunView`; the template shows them as `data`:

    @section("longest", order=55, title="Longest documents")
    def longest(run: RunView) -> list[int] | None:
        return sorted(run.scores.num_tokens.tolist())[-9:] if run.scores else None

With `longest.html.j2` beside it, that is all. Name the module in `plugins` of an experiment, or in
an entry point of the group `dsdm.report_sections`. A script `longest.js` beside it is put into the
page too. The page must stay inert and without requests: text of the pool goes through the filter
`visible`, and what is no plain text is no `Markup`.
"""
