// pgjdbc at pgidle's console, in text and in binary, and the statements by which DBeaver greets a server, as its sources have
// them (PostgreDataSource, PostgreDatabase, PostgreExecutionContext, PostgreDialect, PostgreDataTypeCache).
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;

class PgjdbcConsole {
    static final String[] DBEAVER = {
        "SELECT current_database()",
        "SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE 1 = 1 AND datallowconn AND NOT datistemplate OR db.datname =? ORDER BY db.datname",
        "SELECT version()",
        "SELECT reset_val FROM pg_settings WHERE name = 'search_path'",
        "SELECT current_schema(),session_user",
        "SHOW search_path",
        "SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass ORDER BY nspname",
        "select * from pg_catalog.pg_settings where name=?",
        "select string_agg(word, ',') from pg_catalog.pg_get_keywords() where word <> ALL ( '{a,abs,absolute}'::text[])",
        "SELECT typcategory FROM pg_catalog.pg_type WHERE 1<>1 LIMIT 1",
        "SELECT * FROM pg_catalog.pg_enum WHERE 1<>1 LIMIT 1",
        "SELECT reltype FROM pg_catalog.pg_class WHERE 1<>1 LIMIT 1",
        "SELECT t.oid,t.*,c.relkind,format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name, d.description FROM pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid=t.typelem LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid=t.typrelid LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid=d.objoid WHERE t.typname IS NOT NULL AND (c.relkind IS NULL OR c.relkind = 'c') AND (et.typcategory IS NULL OR et.typcategory <> 'C')",
    };

    static Connection opened(String options) throws SQLException {
        var environment = System.getenv();
        return DriverManager.getConnection("jdbc:postgresql://" + environment.get("PGHOST") + ":" + environment.get("PGPORT") + "/"
            + environment.get("PGDATABASE") + "?user=" + environment.get("PGUSER") + "&password=" + environment.get("PGPASSWORD")
            + "&ApplicationName=DBeaver" + options);
    }

    /** How many rows a statement has, whose parameters are all the same. */
    static int rows(Connection db, String sql) throws SQLException {
        try (var statement = db.prepareStatement(sql)) {
            for (int at = 1, from = 0; (from = sql.indexOf('?', from) + 1) > 0; at++) statement.setString(at, "pgidle");
            int count = 0;
            try (var rows = statement.executeQuery()) {
                while (rows.next()) {
                    for (int column = 1; column <= rows.getMetaData().getColumnCount(); column++) rows.getObject(column);
                    count++;
                }
            }
            return count;
        }
    }

    static String named(Connection db) throws SQLException {
        try (var rows = db.createStatement().executeQuery("SELECT current_schema(),session_user")) {
            rows.next();
            return rows.getString(1) + " " + rows.getString(2);
        }
    }

    public static void main(String[] arguments) throws SQLException {
        for (var options : new String[] {"", "&prepareThreshold=1&binaryTransfer=true", "&preferQueryMode=simple"}) {
            try (var db = opened(options)) {
                if (!db.isValid(5)) throw new SQLException("not valid");
                // A pool: it looks at the settings, and gives the connection back.
                db.setReadOnly(true);
                db.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
                if (db.getTransactionIsolation() != Connection.TRANSACTION_READ_COMMITTED) throw new SQLException("isolation");
                db.setAutoCommit(false);
                rows(db, "SHOW LISTS");
                db.commit();
                db.setAutoCommit(true);
                db.getMetaData().getTables(null, null, "%", null).close();
                db.getMetaData().getSchemas().close();
                for (int again = 0; again < 3; again++) {
                    for (var sql : DBEAVER) rows(db, sql);
                    if (rows(db, "SHOW HELP") < 10) throw new SQLException("too few commands");
                    if (rows(db, "SHOW SESSIONS id, tls, state_change, user") != 0) throw new SQLException("sessions");
                    if (rows(db, "SHOW CONFIG") < 10) throw new SQLException("too few settings");
                }
                System.out.println("pgjdbc " + named(db) + options);
            }
        }
    }
}
