"""The number of processes is no part of an experiment: gradients, decisions, files and whole runs are those of one."""
