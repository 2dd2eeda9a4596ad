// pgjdbc: autosave puts a savepoint before each statement, isValid() sends an empty statement.
// The command line and the lines that are printed: flow.py.
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Scanner;
import java.util.TreeMap;

class Pgjdbc {
    static final String INSERT = "INSERT INTO t VALUES (2, 'two')", LATE = "INSERT INTO t VALUES (3, 'three')";
    static final Scanner INPUT = new Scanner(System.in);
    static final List<String> STEPS = new ArrayList<>();

    interface Act {
        void run() throws SQLException;
    }

    static void note(String name, SQLException error) {
        String seen = error == null ? "null" : "\"" + error.getClass().getSimpleName() + " " + error.getSQLState() + "\"";
        STEPS.add("[\"" + name + "\", " + seen + "]");
    }

    static boolean step(String name, Act act) {
        try {
            act.run();
            note(name, null);
            return true;
        } catch (SQLException error) {
            note(name, error);
            return false;
        }
    }

    static void execute(Connection db, String sql) throws SQLException {
        try (var statement = db.createStatement()) {
            statement.execute(sql);
        }
    }

    static void silence(Connection db) throws SQLException {
        System.out.println("stuck");
        if (INPUT.nextLine().equals("fail")) execute(db, "SELECT 1/0");
    }

    static void swallowed(Connection db) {
        try {
            silence(db);
        } catch (SQLException error) {
            // The program wants to know nothing of it.
        }
    }

    static Connection opened(String options) throws SQLException {
        var environment = System.getenv();
        var db = DriverManager.getConnection("jdbc:postgresql://" + environment.get("PGHOST") + ":" + environment.get("PGPORT") + "/"
            + environment.get("PGDATABASE") + "?user=" + environment.get("PGUSER") + options);
        db.setAutoCommit(false);
        execute(db, INSERT);
        return db;
    }

    static void lateCommit(String options) throws SQLException {
        var db = opened(options);
        swallowed(db);
        step("commit", db::commit);
    }

    static void swallowedError(String options) throws SQLException {
        var db = opened(options);
        swallowed(db);
        step("statement", () -> execute(db, LATE));
        step("commit", db::commit);
    }

    static void isValid() throws SQLException {
        var db = opened("");
        swallowed(db);
        STEPS.add("[\"isValid\", " + (db.isValid(5) ? "null" : "\"false\"") + "]");
        step("commit", db::commit);
    }

    static void statementClosed() throws SQLException {
        var db = opened("&prepareThreshold=1&preparedStatementCacheQueries=0");
        PreparedStatement statement = db.prepareStatement("SELECT v FROM t WHERE id = ?");
        statement.setInt(1, 1);
        statement.executeQuery().close();
        swallowed(db);
        step("close", statement::close);
        step("commit", db::commit);
    }

    static void cursorClosed() throws SQLException {
        var db = opened("");
        var statement = db.createStatement();
        statement.setFetchSize(2);
        var rows = statement.executeQuery("SELECT generate_series(1, 10)");
        rows.next();
        swallowed(db);
        step("close", rows::close);
        step("commit", db::commit);
    }

    static void released() throws SQLException {
        var db = opened("");
        Savepoint savepoint = db.setSavepoint("a");
        swallowed(db);
        step("release", () -> db.releaseSavepoint(savepoint));
        step("commit", db::commit);
    }

    static void left() throws SQLException {
        var db = opened("");
        Savepoint savepoint = db.setSavepoint("a");
        boolean done = step("statement", () -> {
            silence(db);
            execute(db, LATE);
        });
        if (!done) step("rollback to", () -> db.rollback(savepoint));
        step("commit", db::commit);
    }

    public static void main(String[] arguments) throws SQLException {
        Map<String, Act> flows = new TreeMap<>();
        flows.put("A", () -> lateCommit(""));
        flows.put("A autosave=always", () -> lateCommit("&autosave=always"));
        flows.put("B", () -> swallowedError(""));
        flows.put("B autosave=always", () -> swallowedError("&autosave=always"));
        flows.put("B autosave=conservative", () -> swallowedError("&autosave=conservative"));
        flows.put("D isValid()", Pgjdbc::isValid);
        flows.put("D statement closed", Pgjdbc::statementClosed);
        flows.put("D cursor closed", Pgjdbc::cursorClosed);
        flows.put("S", Pgjdbc::released);
        flows.put("R", Pgjdbc::left);
        if (arguments.length == 0) {
            System.out.println("{\"version\": \"" + org.postgresql.util.DriverInfo.DRIVER_VERSION + "\", \"flows\": [\""
                + String.join("\", \"", flows.keySet()) + "\"]}");
        } else {
            flows.get(arguments[0]).run();
            System.out.println("{\"flow\": \"" + arguments[0] + "\", \"steps\": [" + String.join(", ", STEPS) + "]}");
        }
    }
}
