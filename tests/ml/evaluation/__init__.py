"""Tests of `ml.evaluation`."""
