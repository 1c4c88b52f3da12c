"""`pytest -p tests.postgresql`: a throw-away PostgreSQL for the whole run, before the settings are read.

Importing this module starts the server: a plugin named on the command line is imported before pytest-django
loads the settings, and no hook is early enough.
"""

import atexit
import os

from tests.servers import PostgreSQL, postgresql_folder

if postgresql_folder() is None:
    raise RuntimeError("PostgreSQL is not installed: neither /usr/lib/postgresql/*/bin nor initdb was found")

_server = PostgreSQL()
atexit.register(_server.remove)
_server.start()
os.environ["DATABASE_URL"] = f"postgres://perennial@127.0.0.1:{_server.port}/postgres"
