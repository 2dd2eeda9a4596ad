"""A person at psql: completes a word by TAB, looks around, and leaves; prints what came of it."""
import os, pty, select, time

pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(TERM="dumb", INPUTRC="/dev/null", PSQL_HISTORY="/dev/null", PSQL_PAGER="cat")
    os.execvp("psql", ["psql", "-X", "-A", "-t"])
said = b""


def until(mark):
    global said
    deadline = time.monotonic() + 60
    while mark not in said:
        ready = select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]
        assert ready, f"{mark!r} does not come: {said!r}"
        said += os.read(terminal, 4096)
    before, said = said.split(mark, 1)
    return before + mark


def enter(keys, mark):
    os.write(terminal, keys)
    return until(mark)


until(b"=> ")
enter(b"SHOW VERS\t", b"version")
print(enter(b";\n", b"=> ").decode().splitlines()[1])
for keys in [b"\\d\n", b"\\conninfo\n", b"SELECT * FROM pg_st\t\t\x15;\n"]:
    answer = enter(keys, b"=> ")
    assert b"ERROR" not in answer, answer
os.write(terminal, b"\\q\n")
print(os.waitpid(pid, 0)[1])
