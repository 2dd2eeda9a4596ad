# Perl's DBD::Pg: a statement handle's DESTROY sends DEALLOCATE, its ping a comment; neither tells what it drew.
# The command line and the lines that are printed: flow.py.
use strict;
use warnings;
use DBI;
use DBD::Pg;
use JSON::PP;

$| = 1;
my ($insert, $late) = ("INSERT INTO t VALUES (2, 'two')", "INSERT INTO t VALUES (3, 'three')");
my @steps;

sub note {
    my ($name, $error) = @_;
    push @steps, [$name, $error];
}

sub step {
    my ($name, $db, $do) = @_;
    my $done = eval { $do->(); 1 };
    note($name, $done ? undef : "died " . $db->state);
    return $done;
}

sub silence {
    my ($db) = @_;
    print "stuck\n";
    $db->do("SELECT 1/0") if <STDIN> =~ /fail/;
}

sub opened {
    my $db = DBI->connect("dbi:Pg:host=$ENV{PGHOST};port=$ENV{PGPORT};dbname=$ENV{PGDATABASE}", $ENV{PGUSER}, "",
        { AutoCommit => 0, RaiseError => 1, PrintError => 0, PrintWarn => 0 });
    $db->do($insert);
    return $db;
}

sub prepared {
    my ($db) = @_;
    my $statement = $db->prepare("SELECT v FROM t WHERE id = ?");
    $statement->execute($_), $statement->fetchall_arrayref for 1 .. 3;
    return $statement;
}

my %flows = (
    "A" => sub {
        my $db = opened();
        eval { silence($db) };
        step("commit", $db, sub { $db->commit });
    },
    "B" => sub {
        my $db = opened();
        eval { silence($db) };
        step("statement", $db, sub { $db->do($late) });
        step("commit", $db, sub { $db->commit });
    },
    "D statement destroyed" => sub {
        my $db = opened();
        my $statement = prepared($db);
        eval { silence($db) };
        local $SIG{__WARN__} = sub { };
        undef $statement;
        step("commit", $db, sub { $db->commit });
    },
    "D ping" => sub {
        my $db = opened();
        eval { silence($db) };
        note("ping", $db->ping ? undef : "0");
        step("commit", $db, sub { $db->commit });
    },
    "S" => sub {
        my $db = opened();
        $db->pg_savepoint("a");
        eval { silence($db) };
        step("release", $db, sub { $db->pg_release("a") });
        step("commit", $db, sub { $db->commit });
    },
    "R" => sub {
        my $db = opened();
        $db->pg_savepoint("a");
        step("statement", $db, sub { silence($db); $db->do($late) })
            or step("rollback to", $db, sub { $db->pg_rollback_to("a") });
        step("commit", $db, sub { $db->commit });
    },
);

if (@ARGV) {
    $flows{$ARGV[0]}->();
    print encode_json({ flow => $ARGV[0], steps => \@steps }), "\n";
} else {
    print encode_json({ version => "$DBD::Pg::VERSION", flows => [sort keys %flows] }), "\n";
}
