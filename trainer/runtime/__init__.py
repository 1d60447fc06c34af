"""The foundations of a run: whole files, run folder, processes, signals, seeds, YAML text. Every file here is open."""
