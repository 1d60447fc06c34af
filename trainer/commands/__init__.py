"""The commands: `<command>.py` holds options only and answers --help at once; `jobs/` holds the work."""
