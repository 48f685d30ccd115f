"""Models make images: one file a family. `base.py` is what they share."""
