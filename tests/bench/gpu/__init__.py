"""Sections of tests/bench/bench_gpu.py: each a function of the `Bench` that keeps time, figures and inputs."""
