<?php
// PHP's pg_query and its relatives: no exceptions, a result whose status the program may look at or not.
// The command line and the lines that are printed: flow.py.

error_reporting(0);

const INSERT = "INSERT INTO t VALUES (2, 'two')";
const LATE = "INSERT INTO t VALUES (3, 'three')";

$steps = [];

function step(string $name, $done): void {
    global $steps;
    $steps[] = [$name, $done === false ? 'false' : null];
}

function silence($db): void {
    print "stuck\n";
    if (trim(fgets(STDIN)) === 'fail') pg_query($db, 'SELECT 1/0');
}

function opened() {
    $db = pg_connect(sprintf('host=%s port=%s dbname=%s user=%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'), getenv('PGUSER')));
    pg_query($db, 'BEGIN');
    pg_query($db, INSERT);
    return $db;
}

$flows = [
    'A' => function () {
        $db = opened();
        silence($db);
        step('commit', pg_query($db, 'COMMIT'));
    },
    'B' => function () {
        $db = opened();
        silence($db);
        step('statement', pg_query($db, LATE));
        step('commit', pg_query($db, 'COMMIT'));
    },
    'D pg_ping()' => function () {
        $db = opened();
        silence($db);
        step('ping', pg_ping($db));
        step('commit', pg_query($db, 'COMMIT'));
    },
    'S' => function () {
        $db = opened();
        pg_query($db, 'SAVEPOINT a');
        silence($db);
        step('release', pg_query($db, 'RELEASE a'));
        step('commit', pg_query($db, 'COMMIT'));
    },
    'R' => function () {
        $db = opened();
        pg_query($db, 'SAVEPOINT a');
        silence($db);
        step('statement', pg_query($db, LATE));
        step('rollback to', pg_query($db, 'ROLLBACK TO a'));
        step('commit', pg_query($db, 'COMMIT'));
    },
];

if ($argc === 1) {
    print json_encode(['version' => phpversion('pgsql'), 'flows' => array_keys($flows)]) . "\n";
} else {
    $flows[$argv[1]]();
    print json_encode(['flow' => $argv[1], 'steps' => $steps]) . "\n";
}
