#!/usr/bin/env escript
%% Erlang's p1_pgsql: it answers every error by a ROLLBACK of its own.
%% The command line and the lines that are printed: flow.py.
main([]) ->
    application:load(p1_pgsql),
    {ok, Version} = application:get_key(p1_pgsql, vsn),
    io:format("{\"version\": \"~s\", \"flows\": [\"A\", \"B\", \"S\", \"R\"]}~n", [Version]);
main([Flow]) ->
    {ok, Db} = pgsql:connect(os:getenv("PGHOST"), os:getenv("PGDATABASE"), os:getenv("PGUSER"), "",
                             list_to_integer(os:getenv("PGPORT"))),
    run(Db, "BEGIN"),
    run(Db, "INSERT INTO t VALUES (2, 'two')"),
    Steps = play(Flow, Db) ++ [step("commit", run(Db, "COMMIT"))],
    io:format("{\"flow\": \"~s\", \"steps\": [~s]}~n", [Flow, lists:join(", ", Steps)]).

play("A", Db) -> silence(Db), [];
play("B", Db) -> silence(Db), [step("statement", run(Db, "INSERT INTO t VALUES (3, 'three')"))];
play("S", Db) ->
    run(Db, "SAVEPOINT a"),
    silence(Db),
    [step("release", run(Db, "RELEASE a"))];
play("R", Db) ->
    run(Db, "SAVEPOINT a"),
    case silence(Db) of
        none -> Seen = run(Db, "INSERT INTO t VALUES (3, 'three')");
        Seen -> Seen
    end,
    [step("statement", Seen), step("rollback to", run(Db, "ROLLBACK TO a"))].

silence(Db) ->
    io:format("stuck~n"),
    case io:get_line("") of
        "fail\n" -> run(Db, "SELECT 1/0");
        _ -> none
    end.

run(Db, Sql) ->
    case pgsql:squery(Db, Sql) of
        {ok, [{error, Fields}]} -> {error, Fields};
        {ok, _} -> none;
        {error, Fields} -> {error, Fields}
    end.

step(Name, none) -> io_lib:format("[\"~s\", null]", [Name]);
step(Name, {error, Fields}) when is_list(Fields) ->
    State = proplists:get_value(code, Fields, ""),
    io_lib:format("[\"~s\", \"error ~s\"]", [Name, State]);
step(Name, {error, _}) -> io_lib:format("[\"~s\", \"error\"]", [Name]).
