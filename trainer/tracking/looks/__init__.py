"""How the progress of a run looks: lines of a log, bars on a terminal, one bar beside a debugger."""
