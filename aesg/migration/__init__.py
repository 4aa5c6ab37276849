"""The way over from release 3.0: its memory directories and its packs."""

from aesg.migration.moving import MigrationReport, migrate

__all__ = ["MigrationReport", "migrate"]
