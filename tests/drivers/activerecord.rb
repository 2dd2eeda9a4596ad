# Ruby's ActiveRecord: clear_cache! sends DEALLOCATE, active? SELECT 1, and requires_new is a savepoint.
# The command line and the lines that are printed: flow.py.
require "active_record"
require "pg"
require "json"

$stdout.sync = true
INSERT = "INSERT INTO t VALUES (2, 'two')"
LATE = "INSERT INTO t VALUES (3, 'three')"
Own = Class.new(StandardError)

class Row < ActiveRecord::Base
  self.table_name = "t"
end

def note(name, error = nil)
  cause = error && (error.cause || error)
  state = cause.respond_to?(:result) && cause.result ? " #{cause.result.error_field(PG::PG_DIAG_SQLSTATE)}" : ""
  $steps << [name, error && "#{error.class}#{state}"]
end

def step(name)
  yield
  note(name)
rescue StandardError => error
  note(name, error)
end

def silence
  puts "stuck"
  $db.execute("SELECT 1/0") if $stdin.gets.strip == "fail"
end

def swallowed
  silence
rescue StandardError
  nil
end

# The step `commit` is the end of the block.
def in_transaction
  ActiveRecord::Base.establish_connection(
    adapter: "postgresql", host: ENV["PGHOST"], port: ENV["PGPORT"], database: ENV["PGDATABASE"], username: ENV["PGUSER"]
  )
  $db = ActiveRecord::Base.connection
  step("commit") do
    ActiveRecord::Base.transaction do
      $db.execute(INSERT)
      yield
    end
  end
end

def nested
  ActiveRecord::Base.transaction(requires_new: true) do
    $db.execute("SELECT 1")
    silence
    yield
  end
rescue Own
  nil
rescue ActiveRecord::StatementInvalid => error
  note("nested", error)
end

FLOWS = {
  "A" => -> { in_transaction { swallowed } },
  "B" => lambda {
    in_transaction do
      swallowed
      step("statement") { $db.execute(LATE) }
    end
  },
  "D clear_cache!" => lambda {
    in_transaction do
      Row.where(id: 1).to_a
      swallowed
      $db.clear_cache!
    end
  },
  "D active?" => lambda {
    in_transaction do
      swallowed
      $db.active?
    end
  },
  "D verify!" => lambda {
    in_transaction do
      swallowed
      step("verify") { $db.verify! }
    end
  },
  "S" => -> { in_transaction { nested {} } },
  "R" => -> { in_transaction { nested { $db.execute(LATE) } } },
  "R by the program's own exception" => -> { in_transaction { nested { raise Own } } }
}.freeze

if ARGV.empty?
  puts JSON.generate(version: "#{ActiveRecord.version} on pg #{PG::VERSION}", flows: FLOWS.keys)
else
  $steps = []
  FLOWS[ARGV[0]].call
  puts JSON.generate(flow: ARGV[0], steps: $steps)
end
