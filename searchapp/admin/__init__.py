"""The staff's admin. Importing a module registers what it shows."""

from searchapp.admin import accounts, categories, items, records, site

__all__ = ["accounts", "categories", "items", "records", "site"]
