"""What a script waits for that happens to its own session, seen through another connection."""

import threading
import time

SLEEPS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
ENDED = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'idle in transaction (aborted)'"
ALONE = """
    SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                             AND backend_type = 'client backend' AND pid <> pg_backend_pid())
"""


def until(question, *values, conninfo=""):
    """Waits until the question has a row for an answer."""
    import psycopg

    with psycopg.connect(conninfo, autocommit=True) as connection:
        while connection.execute(question, values).fetchone() is None:
            time.sleep(0.01)


def when(question, do, conninfo=""):
    """Does something in a thread of its own when the question has a row for an answer."""

    def wait_and_do():
        until(question, conninfo=conninfo)
        do()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread
