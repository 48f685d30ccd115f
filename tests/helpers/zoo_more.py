"""Tiny pipelines that came last."""
