"""The foundations of a run: whole files, run folder, processes, signals, output, seeds, YAML text; all files open."""
