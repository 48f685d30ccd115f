"""The units of work of a run, and the worker that any process runs them with."""
