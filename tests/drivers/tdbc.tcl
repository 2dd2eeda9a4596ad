# Tcl's tdbc::postgres: closing a statement sends DEALLOCATE.
# The command line and the lines that are printed: flow.py.
package require tdbc::postgres

set insert "INSERT INTO t VALUES (2, 'two')"
set late "INSERT INTO t VALUES (3, 'three')"
set steps {}

proc note {name error} {
    global steps
    lappend steps "\[\"$name\", $error\]"
}

proc step {name script} {
    if {[catch {uplevel 1 $script} result options]} {
        set state [lindex [dict get $options -errorcode] 2]
        note $name "\"error $state\""
        return 0
    }
    note $name null
    return 1
}

proc silence {} {
    puts stuck
    flush stdout
    if {[gets stdin] eq "fail"} { db allrows {SELECT 1/0} }
}

proc opened {} {
    global env insert
    tdbc::postgres::connection create db -host $env(PGHOST) -port $env(PGPORT) -user $env(PGUSER) -db $env(PGDATABASE)
    db begintransaction
    db allrows $insert
}

set flows(A) {
    opened
    catch silence
    step commit {db commit}
}
set flows(B) {
    opened
    catch silence
    step statement {db allrows $late}
    step commit {db commit}
}
set "flows(D statement closed)" {
    opened
    set statement [db prepare {SELECT v FROM t WHERE id = 1}]
    $statement allrows
    catch silence
    catch {$statement close}
    step commit {db commit}
}
set "flows(D statement closed in transaction {})" {
    tdbc::postgres::connection create db -host $env(PGHOST) -port $env(PGPORT) -user $env(PGUSER) -db $env(PGDATABASE)
    step commit {
        db transaction {
            db allrows $insert
            set statement [db prepare {SELECT v FROM t WHERE id = 1}]
            $statement allrows
            catch silence
            catch {$statement close}
        }
    }
}
set flows(S) {
    opened
    db allrows {SAVEPOINT a}
    catch silence
    step release {db allrows {RELEASE a}}
    step commit {db commit}
}
set flows(R) {
    opened
    db allrows {SAVEPOINT a}
    if {![step statement {silence; db allrows $late}]} {
        step {rollback to} {db allrows {ROLLBACK TO a}}
    }
    step commit {db commit}
}

if {$argc == 0} {
    set names {}
    foreach name [lsort [array names flows]] { lappend names "\"$name\"" }
    puts "{\"version\": \"[package present tdbc::postgres]\", \"flows\": \[[join $names {, }]\]}"
} else {
    set name [lindex $argv 0]
    eval $flows($name)
    puts "{\"flow\": \"$name\", \"steps\": \[[join $steps {, }]\]}"
}
