<?php
// PHP's PDO: the destructor of a prepared statement sends DEALLOCATE and looks at no answer.
// The command line and the lines that are printed: flow.py.

const INSERT = "INSERT INTO t VALUES (2, 'two')";
const LATE = "INSERT INTO t VALUES (3, 'three')";

$steps = [];

function step(string $name, callable $do): void {
    global $steps;
    try {
        $done = $do();
        $steps[] = [$name, $done === false ? 'false' : null];
    } catch (Throwable $error) {
        $state = $error instanceof PDOException ? ' ' . $error->getCode() : '';
        $steps[] = [$name, get_class($error) . $state];
    }
}

function silence(PDO $db): void {
    print "stuck\n";
    if (trim(fgets(STDIN)) === 'fail') $db->exec('SELECT 1/0');
}

function swallowed(PDO $db): void {
    try { silence($db); } catch (PDOException) {}
}

function opened(): PDO {
    $db = new PDO(sprintf('pgsql:host=%s;port=%s;dbname=%s;user=%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'), getenv('PGUSER')));
    $db->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
    $db->beginTransaction();
    $db->exec(INSERT);
    return $db;
}

$flows = [
    'A' => function () {
        $db = opened();
        swallowed($db);
        step('commit', fn () => $db->commit());
    },
    'B' => function () {
        $db = opened();
        swallowed($db);
        step('statement', fn () => $db->exec(LATE));
        step('commit', fn () => $db->commit());
    },
    'D statement destroyed' => function () {
        $db = opened();
        $statement = $db->prepare('SELECT v FROM t WHERE id = ?');
        $statement->execute([1]);
        $statement->fetchAll();
        swallowed($db);
        $statement = null;
        step('commit', fn () => $db->commit());
    },
    'S' => function () {
        $db = opened();
        $db->exec('SAVEPOINT a');
        swallowed($db);
        step('release', fn () => $db->exec('RELEASE a'));
        step('commit', fn () => $db->commit());
    },
    'R' => function () {
        global $steps;
        $db = opened();
        $db->exec('SAVEPOINT a');
        try {
            silence($db);
            $db->exec(LATE);
        } catch (PDOException $error) {
            $steps[] = ['statement', 'PDOException ' . $error->getCode()];
            step('rollback to', fn () => $db->exec('ROLLBACK TO a'));
        }
        step('commit', fn () => $db->commit());
    },
];

if ($argc === 1) {
    print json_encode(['version' => phpversion('pdo_pgsql'), 'flows' => array_keys($flows)]) . "\n";
} else {
    $flows[$argv[1]]();
    print json_encode(['flow' => $argv[1], 'steps' => $steps]) . "\n";
}
