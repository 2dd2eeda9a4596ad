// pgx and lib/pq at pgidle's console, in every way in which they ask.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/jackc/pgx/v4"
	_ "github.com/lib/pq"
)

var none = context.Background()

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func withPgx(simple bool) {
	config, err := pgx.ParseConfig("sslmode=disable")
	must(err)
	config.PreferSimpleProtocol = simple
	db, err := pgx.ConnectConfig(none, config)
	must(err)
	must(db.Ping(none))
	for again := 0; again < 2; again++ {
		rows, err := db.Query(none, "SHOW SESSIONS id, tls, state_change, user")
		must(err)
		rows.Close()
		must(rows.Err())
	}
	transaction, err := db.Begin(none)
	must(err)
	var version, list string
	var items int64
	must(transaction.QueryRow(none, "SELECT version()").Scan(&version))
	must(transaction.QueryRow(none, "SHOW LISTS").Scan(&list, &items))
	must(transaction.Commit(none))
	_, err = db.Exec(none, "SHOW NOTHING")
	fmt.Println("pgx", simple, list, items, err != nil)
	must(db.Close(none))
}

func withPq() {
	db, err := sql.Open("postgres", "sslmode=disable")
	must(err)
	must(db.Ping())
	var list string
	var items int64
	must(db.QueryRow("SHOW LISTS").Scan(&list, &items))
	statement, err := db.Prepare("SHOW LISTS list, items")
	must(err)
	must(statement.QueryRow().Scan(&list, &items))
	fmt.Println("lib/pq", list, items)
	must(db.Close())
}

func main() {
	withPgx(false)
	withPgx(true)
	withPq()
}
