"""How to run: one thin entry point per job. Heavy imports happen inside `main`, so that --help answers at once."""
