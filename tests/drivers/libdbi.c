// libdbi: dbi_conn_ping() sends SELECT 1.
// The command line and the lines that are printed: flow.py.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dbi/dbi.h>

static const char *INSERT = "INSERT INTO t VALUES (2, 'two')", *LATE = "INSERT INTO t VALUES (3, 'three')";
static char steps[4096];
static dbi_conn db;

static int step(const char *name, int failed, const char *seen) {
    char note[256];
    snprintf(note, sizeof note, failed ? "%s[\"%s\", \"%s\"]" : "%s[\"%s\", null]", *steps ? ", " : "", name, seen);
    strcat(steps, note);
    return !failed;
}

static int fails(const char *sql) {
    dbi_result result = dbi_conn_query(db, sql);
    if (result) dbi_result_free(result);
    return !result;
}

static int silence(void) {
    char line[64];
    puts("stuck");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) exit(1);
    return strcmp(line, "fail\n") ? 0 : fails("SELECT 1/0");
}

static void commit(void) {
    step("commit", dbi_conn_transaction_commit(db), "1");
}

int main(int count, char **arguments) {
    dbi_inst instance;
    dbi_initialize_r(NULL, &instance);
    db = dbi_conn_new_r("pgsql", instance);
    if (count == 1) {
        printf("{\"version\": \"%s\", \"flows\": [\"A\", \"B\", \"D ping\", \"S\", \"R\"]}\n",
               dbi_driver_get_version(dbi_conn_get_driver(db)));
        return 0;
    }
    dbi_conn_set_option(db, "host", getenv("PGHOST"));
    dbi_conn_set_option(db, "port", getenv("PGPORT"));
    dbi_conn_set_option(db, "dbname", getenv("PGDATABASE"));
    dbi_conn_set_option(db, "username", getenv("PGUSER"));
    if (dbi_conn_connect(db) || dbi_conn_transaction_begin(db) || fails(INSERT)) return 1;
    const char flow = *arguments[1];
    if (flow == 'S' || flow == 'R') dbi_conn_savepoint(db, "a");
    if (flow != 'R') silence();
    if (flow == 'B') step("statement", fails(LATE), "no result");
    if (flow == 'D') step("ping", !dbi_conn_ping(db), "0");
    if (flow == 'S') step("release", dbi_conn_release_savepoint(db, "a"), "1");
    if (flow == 'R' && !step("statement", silence() || fails(LATE), "no result"))
        step("rollback to", dbi_conn_rollback_to_savepoint(db, "a"), "1");
    commit();
    printf("{\"flow\": \"%s\", \"steps\": [%s]}\n", arguments[1], steps);
}
