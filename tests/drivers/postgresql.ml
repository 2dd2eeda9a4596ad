(* OCaml's postgresql: an exception for every status that the program does not expect.
   The command line and the lines that are printed: flow.py. *)
open Postgresql

let insert = "INSERT INTO t VALUES (2, 'two')"
let late = "INSERT INTO t VALUES (3, 'three')"
let steps = ref []

let note name seen = steps := Printf.sprintf "[\"%s\", %s]" name seen :: !steps

let run (db : connection) sql = ignore (db#exec ~expect:[ Command_ok; Tuples_ok ] sql)

let step name act =
  match act () with
  | () -> note name "null"; true
  | exception Error (Unexpected_status _) -> note name "\"Unexpected_status\""; false
  | exception Error _ -> note name "\"Error\""; false

let silence (db : connection) =
  print_endline "stuck";
  if input_line stdin = "fail" then run db "SELECT 1/0"

let swallowed db = try silence db with Error _ -> ()

let play flow =
  let env = Sys.getenv in
  let db =
    new connection ~host:(env "PGHOST") ~port:(env "PGPORT") ~user:(env "PGUSER") ~dbname:(env "PGDATABASE") ()
  in
  run db "BEGIN";
  run db insert;
  (match flow with
   | "B" ->
     swallowed db;
     ignore (step "statement" (fun () -> run db late))
   | "S" ->
     run db "SAVEPOINT a";
     swallowed db;
     ignore (step "release" (fun () -> run db "RELEASE a"))
   | "R" ->
     run db "SAVEPOINT a";
     if not (step "statement" (fun () -> silence db; run db late)) then
       ignore (step "rollback to" (fun () -> run db "ROLLBACK TO a"))
   | _ -> swallowed db);
  ignore (step "commit" (fun () -> run db "COMMIT"))

let () =
  if Array.length Sys.argv = 1 then
    print_endline "{\"version\": \"Debian's\", \"flows\": [\"A\", \"B\", \"S\", \"R\"]}"
  else begin
    play Sys.argv.(1);
    Printf.printf "{\"flow\": \"%s\", \"steps\": [%s]}\n" Sys.argv.(1) (String.concat ", " (List.rev !steps))
  end
