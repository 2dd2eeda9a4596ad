//! What libraries send by themselves and a rollback undoes is answered after an enforcement as it would have been without one;
//! then the COMMIT is the error, and what is left in the session is the same.

use crate::support::{
    Endpoint,
    frontend::messages,
    proxy::Proxy,
    request::{
        Request::{self, Sql, Wire},
        SPEECHES, Speech, readies,
    },
    server::{Server, on_every_server},
    wire::Client,
};

/// The requests. Before them there are the statement `plan`, the cursor `held` of an earlier transaction, and in the
/// transaction the savepoints `a` and `b`, the cursor `c` and a large object that is open.
const REQUESTS: &[&[Request]] = &[
    &[Sql("SAVEPOINT new")],
    &[Sql("SAVEPOINT new"), Sql("RELEASE SAVEPOINT new")],
    &[Sql("SAVEPOINT new"), Sql("ROLLBACK TO new")],
    &[Sql("RELEASE b"), Sql("RELEASE SAVEPOINT \"a\"")],
    &[Sql("RELEASE a")],
    &[Sql("ROLLBACK TO SAVEPOINT b"), Sql("RELEASE b")],
    &[Sql("ROLLBACK TRANSACTION TO A"), Sql("ROLLBACK TO a;")],
    &[Sql("DEALLOCATE plan")],
    &[Sql("DEALLOCATE PREPARE \"plan\"")],
    &[Sql("CLOSE c")],
    &[Sql("CLOSE held")],
    &[Sql("UNLISTEN news")],
    &[Sql("UNLISTEN *")],
    &[Wire("F 953 0")],
    &[Sql("")],
    &[Sql(";")],
    &[Sql("/* ping */")],
    &[Sql("-- ping"), Sql("DEALLOCATE plan"), Sql("CLOSE c")],
    &[Sql(
        "SAVEPOINT _per_query_svp_;DEALLOCATE \"plan\";RELEASE _per_query_svp_",
    )],
    &[Sql("RELEASE b;SAVEPOINT b")],
    &[Wire("C S plan | C P c | S")],
    &[Wire("S")],
];

/// A session in a transaction.
fn opened(endpoint: &Endpoint, requests: &[Request]) -> Client {
    let mut client = Client::connect(endpoint);
    client.run("LISTEN news; PREPARE plan AS SELECT 1");
    client.run("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; COMMIT");
    for (index, request) in requests.iter().enumerate() {
        if let (Sql(_), false) = (request, request.is_list()) {
            client.ask(&request.prepared(&format!("early_{index}")));
        }
    }
    client.run(
        "BEGIN; SAVEPOINT a; SAVEPOINT b; DECLARE c CURSOR FOR SELECT 1; \
         SELECT lo_open(oid, 131072) FROM pg_largeobject_metadata",
    );
    client
}

/// Whether a failed transaction lets it be prepared under a name, for later: nothing else is, so that tells the client.
fn may_be_prepared(request: &Request) -> bool {
    matches!(request, Sql(sql) if sql.is_empty() || sql.starts_with("ROLLBACK"))
}

/// The answers to the requests.
fn answers(client: &mut Client, requests: &[Request], speech: Speech) -> Vec<String> {
    let mut answers = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        for packet in request.packets(speech, &format!("early_{index}")) {
            client.send(&packet.concat());
            answers.extend((0..readies(&packet)).map(|_| client.until_ready()));
        }
    }
    answers
}

/// What outlives the transaction.
fn left(client: &mut Client) -> String {
    client.value(
        "SELECT concat_ws('; ', (SELECT string_agg(name, ' ' ORDER BY name) FROM pg_prepared_statements), \
         (SELECT string_agg(name, ' ') FROM pg_cursors), (SELECT string_agg(c, ' ') FROM pg_listening_channels() c))",
    )
}

fn answers_as_natively(server: &Server) {
    let database = server.database();
    Client::connect(&database).run("SELECT lo_create(0)");
    let proxy = Proxy::rolling_back(&database, "500ms");
    let mut wrong = Vec::<String>::new();
    for speech in SPEECHES {
        let requests = REQUESTS.iter().copied();
        let clients: Vec<_> = requests
            .filter(|requests| speech != Speech::Batches || requests.iter().all(may_be_prepared))
            .map(|requests| (requests, opened(proxy.endpoint(), requests)))
            .collect();
        for (requests, mut client) in clients {
            let mut native = opened(&database, requests);
            let expected = answers(&mut native, requests, speech);
            native.run("ROLLBACK");
            proxy.rolled_back(client.server_pid());
            let answered = answers(&mut client, requests, speech);
            let late = client.ask(&messages("P - COMMIT | B - - | E - | S"));
            let (left, native_left) = (left(&mut client), left(&mut native));
            if answered != expected || late != "1 / 2 / E 25P03 / Z I" || left != native_left {
                wrong.push(format!(
                    "{requests:?}, {speech:?}: {answered:?}, COMMIT: {late}, left: {left}; natively {expected:?}, left: \
                     {native_left}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_a_rollback_undoes_is_answered_as_if_nothing_had_happened() {
    on_every_server(answers_as_natively);
}
