#!/usr/bin/env python
"""Command-line entry point: `manage.py serve`, `manage.py import_catalogue`, and the rest of docs/contract."""

import os
import sys

import ml.threads  # noqa: F401  thread settings must be in place before numpy, faiss or onnxruntime load

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "searchapp.settings.dev")
    from django.core.management import execute_from_command_line  # after the settings module is known

    execute_from_command_line(sys.argv)
