"""Files, texts, tables, devices, progress: what any folder may use."""
