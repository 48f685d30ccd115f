"""Runs an evaluation: `python run_eval.py` (the embedded default), or with Hydra overrides."""

from evalkit.cli import main

if __name__ == "__main__":
    main()
