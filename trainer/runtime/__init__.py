"""What a run stands on: whole files, the run folder, processes, signals, seeds, YAML text. Every file here is open."""
