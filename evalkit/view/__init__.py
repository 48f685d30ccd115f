"""A local page over all runs and all samples below a folder: `evalkit view DIR`. It reads, and writes nothing."""
