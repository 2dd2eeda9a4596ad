"""Django on psycopg 3: iterator() leaves a cursor, is_usable() pings, a nested atomic block is a savepoint."""

import gc

import django
from django.conf import settings

from flow import DATABASE, HOST, INSERT, LATE, PORT, USER, Own, play

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": HOST,
            "PORT": PORT,
            "USER": USER,
            "NAME": DATABASE,
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

from django.db import Error, connection, models, transaction  # noqa: E402


class Row(models.Model):
    id = models.IntegerField(primary_key=True)
    v = models.TextField()

    class Meta:
        app_label = "flows"
        db_table = "t"


def execute(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)


def in_transaction(flow, body):
    """The step `commit` is the end of the block; an exception of the body's own goes to its step."""

    def block():
        with transaction.atomic():
            execute(INSERT)
            body()

    flow.step("commit", block)


def late_commit(flow):
    in_transaction(flow, lambda: flow.swallowed(execute))


def swallowed_error(flow):
    def body():
        flow.swallowed(execute)
        flow.step("statement", execute, LATE)

    in_transaction(flow, body)


def swallowed_error_of_the_orm(flow):
    def body():
        flow.swallowed(lambda _: Row.objects.create(id=1, v="again"))
        flow.step("statement", lambda: Row.objects.create(id=3, v="three"))

    in_transaction(flow, body)


def iterator_abandoned(flow):
    def body():
        rows = [Row.objects.iterator(chunk_size=1)]
        next(rows[0])
        flow.swallowed(execute)
        rows.clear()
        gc.collect()

    in_transaction(flow, body)


def is_usable(flow):
    def body():
        flow.swallowed(execute)
        connection.is_usable()

    in_transaction(flow, body)


def nested(flow, late, only=Error):
    def body():
        try:
            with transaction.atomic():
                flow.silence(execute)
                late()
        except (only, Own) as error:
            if not isinstance(error, Own):
                flow.note("nested", error)

    in_transaction(flow, body)


def own():
    raise Own


play(
    django.__version__,
    {
        "A": late_commit,
        "B": swallowed_error,
        "B by the ORM": swallowed_error_of_the_orm,
        "D iterator abandoned": iterator_abandoned,
        "D is_usable()": is_usable,
        "S": lambda flow: nested(flow, lambda: None),
        "R": lambda flow: nested(flow, lambda: execute(LATE)),
        "R by the ORM": lambda flow: nested(flow, lambda: Row.objects.create(id=3, v="three")),
        "R by the program's own exception": lambda flow: nested(flow, own),
    },
)
