# R's RPostgreSQL: dbCommit() never looks at the answer to COMMIT, and errors are warnings.
# The command line and the lines that are printed: flow.py.
suppressMessages(library(RPostgreSQL))

insert <- "INSERT INTO t VALUES (2, 'two')"
late <- "INSERT INTO t VALUES (3, 'three')"
steps <- c()
input <- file("stdin", "r")

run <- function(db, sql) {
    result <- suppressWarnings(try(dbSendQuery(db, sql), silent = TRUE))
    !inherits(result, "try-error") && !is.null(result)
}

step <- function(name, done) {
    steps <<- c(steps, sprintf('["%s", %s]', name, if (isTRUE(done)) "null" else '"error"'))
    isTRUE(done)
}

silence <- function(db) {
    cat("stuck\n")
    readLines(input, 1) != "fail" || run(db, "SELECT 1/0")
}

play <- function(flow) {
    env <- Sys.getenv
    db <- dbConnect(PostgreSQL(), host = env("PGHOST"), port = env("PGPORT"), user = env("PGUSER"), dbname = env("PGDATABASE"))
    dbBegin(db)
    run(db, insert)
    if (flow %in% c("S", "R")) run(db, "SAVEPOINT a")
    going <- silence(db)
    if (flow == "B") step("statement", run(db, late))
    if (flow == "S") step("release", run(db, "RELEASE a"))
    if (flow == "R" && !step("statement", going && run(db, late))) step("rollback to", run(db, "ROLLBACK TO a"))
    step("commit", suppressWarnings(dbCommit(db)))
}

flow <- commandArgs(trailingOnly = TRUE)
if (length(flow) == 0) {
    cat(sprintf('{"version": "%s", "flows": ["A", "B", "S", "R"]}\n', packageVersion("RPostgreSQL")))
} else {
    play(flow)
    cat(sprintf('{"flow": "%s", "steps": [%s]}\n', flow, paste(steps, collapse = ", ")))
}
