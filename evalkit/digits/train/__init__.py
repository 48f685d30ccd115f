"""Training of everything this package ships: ``python -m evalkit.digits.train``."""
