"""A table as LaTeX with booktabs, ready to be input."""

from __future__ import annotations

import re

from trainer.tables.aggregate import Table
from trainer.tables.columns import Column, headings
from trainer.tables.layout import BEST, BLANK, PLAIN, SECOND, STRUCK, grid, mixed_fields

_ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # other signs in old fonts
_SPECIAL |= {c: f"\\{c}" for c in "&%$#_{}"}
_SPECIAL |= {c: f"{{{c}}}" for c in "[*"}  # at the beginning of a row they would be arguments of the \\ before
_MATHS = re.compile(r"(\$[^$]+\$)")  # names in files of earlier code may be formulas: $\delta < 1.25$
_FORMULA = re.compile("δ < [0-9.]+[²³]?")  # as others are in titles
_SIGNS = str.maketrans({"δ": r"\delta", "²": "^2", "³": "^3"})
_OPENING = r"""% Needs \usepackage{booktabs}. \best and \nbest may be defined before.
\providecommand{\best}[1]{\textbf{#1}}
\providecommand{\nbest}[1]{\underline{#1}}
"""
_STRUCK = r"""\providecommand{\struck}[1]{{\setbox0\hbox{#1}\rlap{\rule[.5ex]{\wd0}{.4pt}}\box0}}
"""


def latex(table: Table, decimals: int | None = None) -> str:
    """Write the table as a `table` environment; numbers are mean ± standard deviation.

    `\\best` and `\\nbest` mark the best and the second best; published rows stand below a rule, and so do
    those that were trained on what they are scored on, struck through by `\\struck`.
    """
    style = {PLAIN: "{}", BEST: r"\best{{{}}}", SECOND: r"\nbest{{{}}}", STRUCK: r"\struck{{{}}}"}
    num_labels, ranked = 2 + len(mixed_fields(table)), len(table.rows)
    titles = ["Model", *map(escape, mixed_fields(table)), "$n$"]
    body = [[*titles, *map(_title, headings(table.columns, arrows=False, names="title").items())]]
    for line in grid(table, decimals, plus_minus=r" \ensuremath{\pm} "):
        labels = [escape(cell.text) for cell in line[:num_labels]]
        values = ["--" if c.text == BLANK else style[c.mark].format(c.text) for c in line[num_labels:]]
        body.append([*labels, *values])
    heading, *rows = _aligned(body)
    lines = [r"\toprule", heading, r"\midrule", *rows[:ranked]]
    lines += [r"\midrule"] * (0 < ranked < len(rows)) + [*rows[ranked:], r"\bottomrule"]
    several = table.has_spread or (not table.rows and any(row.n > 1 for row in table.references))
    numbers = "Mean and standard deviation over $n$ seeds" if several else "One seed"
    protocol = " ".join(f"{key} {value};" for key, value in table.protocol.items() if value)
    comments = [" ".join(line.split()) for line in (f"Protocol: {protocol}", *table.warnings, *table.notes)]
    return "\n".join(
        [
            _OPENING + _STRUCK * bool(table.leaking) + "\n".join(f"% {line}" for line in comments),
            r"\begin{table}",
            r"  \centering",
            r"  \renewcommand{\arraystretch}{1.2}",
            f"  \\caption{{{escape(table.title)}. {numbers}.}}",
            f"  \\label{{tab:{re.sub('[^A-Za-z0-9]+', '-', table.name)}}}",
            f"  \\begin{{tabular}}{{@{{}}{'l' * num_labels}{'r' * len(table.columns)}@{{}}}}",
            *(f"    {line}" for line in lines),
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Escape every character that has a meaning in LaTeX."""
    return "".join(_SPECIAL.get(c, c) for c in text)


def _title(heading: tuple[Column, str]) -> str:
    """Name a metric; formulas between dollars stay."""
    column, text = heading
    text = _FORMULA.sub(lambda found: f"${found[0].translate(_SIGNS)}$", text)
    parts = [p if _MATHS.fullmatch(p) else escape(p.replace("_", " ")) for p in _MATHS.split(text)]
    return "".join(parts) + _ARROWS[column.direction]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [" & ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() + r" \\" for row in rows]
