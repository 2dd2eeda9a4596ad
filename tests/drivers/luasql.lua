-- LuaSQL: commit() never looks at the answer to COMMIT.
-- The command line and the lines that are printed: flow.py.
local postgres = require("luasql.postgres")

local insert, late = "INSERT INTO t VALUES (2, 'two')", "INSERT INTO t VALUES (3, 'three')"
local steps = {}

local function step(name, done)
    local seen = done and "null" or '"nil"'
    steps[#steps + 1] = string.format('["%s", %s]', name, seen)
    return done
end

local function opened()
    local env = os.getenv
    local db = assert(postgres.postgres():connect(env("PGDATABASE"), env("PGUSER"), "", env("PGHOST"), env("PGPORT")))
    db:setautocommit(false)
    assert(db:execute(insert))
    return db
end

local function silence(db)
    print("stuck")
    io.stdout:flush()
    return io.read() ~= "fail" or db:execute("SELECT 1/0")
end

local flows = {
    A = function()
        local db = opened()
        silence(db)
        step("commit", db:commit())
    end,
    B = function()
        local db = opened()
        silence(db)
        step("statement", db:execute(late))
        step("commit", db:commit())
    end,
    S = function()
        local db = opened()
        db:execute("SAVEPOINT a")
        silence(db)
        step("release", db:execute("RELEASE a"))
        step("commit", db:commit())
    end,
    R = function()
        local db = opened()
        db:execute("SAVEPOINT a")
        if not step("statement", silence(db) and db:execute(late)) then
            step("rollback to", db:execute("ROLLBACK TO a"))
        end
        step("commit", db:commit())
    end,
}

if arg[1] then
    flows[arg[1]]()
    print(string.format('{"flow": "%s", "steps": [%s]}', arg[1], table.concat(steps, ", ")))
else
    print(string.format('{"version": "%s", "flows": ["A", "B", "S", "R"]}', postgres._VERSION:match("[%d.]+")))
end
