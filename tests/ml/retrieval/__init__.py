"""Tests of `ml.retrieval`."""
