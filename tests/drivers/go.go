// Go: lib/pq by database/sql, and pgx by itself. The library is the first word of the flow.
// The command line and the lines that are printed: flow.py.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/lib/pq"
)

const (
	insert = "INSERT INTO t VALUES (2, 'two')"
	late   = "INSERT INTO t VALUES (3, 'three')"
	fails  = "SELECT 1/0"
)

var (
	steps = [][]interface{}{}
	input = bufio.NewReader(os.Stdin)
	none  = context.Background()
)

func step(name string, err error) bool {
	var seen interface{}
	if err != nil {
		var ofPq *pq.Error
		var ofPgx *pgconn.PgError
		switch {
		case errors.As(err, &ofPq):
			seen = "pq.Error " + string(ofPq.Code)
		case errors.As(err, &ofPgx):
			seen = "PgError " + ofPgx.Code
		default:
			seen = err.Error()
		}
	}
	steps = append(steps, []interface{}{name, seen})
	return err == nil
}

// silence returns the error of the statement that fails in its place.
func silence(run func(string) error) error {
	fmt.Println("stuck")
	line, _ := input.ReadString('\n')
	if strings.TrimSpace(line) == "fail" {
		return run(fails)
	}
	return nil
}

// transaction is what both libraries offer.
type transaction struct {
	run    func(string) error
	commit func() error
}

func address() string {
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable",
		os.Getenv("PGHOST"), os.Getenv("PGPORT"), os.Getenv("PGUSER"), os.Getenv("PGDATABASE"))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func byPq() (*sql.Tx, transaction) {
	db, err := sql.Open("postgres", address())
	must(err)
	tx, err := db.Begin()
	must(err)
	run := func(sql string) error {
		_, err := tx.Exec(sql)
		return err
	}
	must(run(insert))
	return tx, transaction{run, tx.Commit}
}

func byPgx() (*pgx.Conn, pgx.Tx, transaction) {
	db, err := pgx.Connect(none, address())
	must(err)
	tx, err := db.Begin(none)
	must(err)
	run := func(sql string) error {
		_, err := tx.Exec(none, sql)
		return err
	}
	must(run(insert))
	return db, tx, transaction{run, func() error { return tx.Commit(none) }}
}

func statementClosed() {
	tx, it := byPq()
	statement, err := tx.Prepare("SELECT v FROM t WHERE id = $1")
	must(err)
	rows, err := statement.Query(1)
	must(err)
	must(rows.Close())
	silence(it.run)
	step("close", statement.Close())
	step("commit", it.commit())
}

func deallocated() {
	db, _, it := byPgx()
	_, err := db.Prepare(none, "s", "SELECT v FROM t WHERE id = $1")
	must(err)
	silence(it.run)
	step("deallocate", db.Deallocate(none, "s"))
	step("commit", it.commit())
}

func pinged() {
	db, _, it := byPgx()
	silence(it.run)
	step("ping", db.Ping(none))
	step("commit", it.commit())
}

func nested(leave bool) {
	_, tx, it := byPgx()
	inner, err := tx.Begin(none)
	must(err)
	run := func(sql string) error {
		_, err := inner.Exec(none, sql)
		return err
	}
	err = silence(run)
	if leave && err == nil {
		err = run(late)
	}
	if leave && !step("statement", err) {
		step("rollback to", inner.Rollback(none))
	} else {
		step("release", inner.Commit(none))
	}
	step("commit", it.commit())
}

func plain(it transaction, flow string) {
	switch flow {
	case "A":
		silence(it.run)
	case "B":
		silence(it.run)
		step("statement", it.run(late))
	case "S":
		must(it.run("SAVEPOINT a"))
		silence(it.run)
		step("release", it.run("RELEASE a"))
	case "R":
		must(it.run("SAVEPOINT a"))
		err := silence(it.run)
		if err == nil {
			err = it.run(late)
		}
		if !step("statement", err) {
			step("rollback to", it.run("ROLLBACK TO a"))
		}
	}
	step("commit", it.commit())
}

func main() {
	library, flow := os.Args[1], ""
	if len(os.Args) > 2 {
		flow = os.Args[2]
	}
	answer := map[string]interface{}{"flow": flow}
	switch {
	case flow == "" && library == "pq":
		answer = map[string]interface{}{"version": "Debian's", "flows": []string{"A", "B", "D statement closed", "S", "R"}}
	case flow == "":
		answer = map[string]interface{}{"version": "v4, Debian's", "flows": []string{"A", "B", "D deallocate", "D ping", "S", "R"}}
	case flow == "D statement closed":
		statementClosed()
	case flow == "D deallocate":
		deallocated()
	case flow == "D ping":
		pinged()
	case library == "pgx" && (flow == "S" || flow == "R"):
		nested(flow == "R")
	case library == "pgx":
		_, _, it := byPgx()
		plain(it, flow)
	default:
		_, it := byPq()
		plain(it, flow)
	}
	if flow != "" {
		answer["steps"] = steps
	}
	line, err := json.Marshal(answer)
	must(err)
	fmt.Println(string(line))
}
