// SOCI: the destructor of a prepared statement sends DEALLOCATE, is_connected() a comment.
// The command line and the lines that are printed: flow.py.
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include <soci/postgresql/soci-postgresql.h>
#include <soci/soci.h>
#include <soci/version.h>

using std::string;

const string INSERT = "INSERT INTO t VALUES (2, 'two')", LATE = "INSERT INTO t VALUES (3, 'three')";
string steps;

void note(const string &name, const string &error) {
    steps += (steps.empty() ? "" : ", ") + string("[\"") + name + "\", " + error + "]";
}

bool step(const string &name, const std::function<void()> &act) {
    try {
        act();
        note(name, "null");
        return true;
    } catch (const soci::postgresql_soci_error &error) {
        note(name, "\"soci_error " + error.sqlstate() + "\"");
    } catch (const soci::soci_error &) {
        note(name, "\"soci_error\"");
    }
    return false;
}

void silence(soci::session &db) {
    std::cout << "stuck" << std::endl;
    string line;
    std::getline(std::cin, line);
    if (line == "fail") db << "SELECT 1/0";
}

void swallowed(soci::session &db) {
    try {
        silence(db);
    } catch (const soci::soci_error &) {
    }
}

struct Opened {
    soci::session db;
    soci::transaction transaction;

    Opened()
        : db(soci::postgresql, string("host=") + getenv("PGHOST") + " port=" + getenv("PGPORT") + " dbname=" +
                                   getenv("PGDATABASE") + " user=" + getenv("PGUSER")),
          transaction(db) {
        db << INSERT;
    }
    void commit() {
        step("commit", [this] { transaction.commit(); });
    }
};

const std::map<string, std::function<void()>> FLOWS = {
    {"A",
     [] {
         Opened it;
         swallowed(it.db);
         it.commit();
     }},
    {"B",
     [] {
         Opened it;
         swallowed(it.db);
         step("statement", [&] { it.db << LATE; });
         it.commit();
     }},
    {"D statement destroyed",
     [] {
         Opened it;
         int id = 1;
         string v;
         auto statement = std::make_unique<soci::statement>(
             (it.db.prepare << "SELECT v FROM t WHERE id = :id", soci::use(id), soci::into(v)));
         statement->execute(true);
         swallowed(it.db);
         statement.reset();
         it.commit();
     }},
    {"D is_connected()",
     [] {
         Opened it;
         swallowed(it.db);
         it.db.is_connected();
         it.commit();
     }},
    {"S",
     [] {
         Opened it;
         it.db << "SAVEPOINT a";
         swallowed(it.db);
         step("release", [&] { it.db << "RELEASE a"; });
         it.commit();
     }},
    {"R",
     [] {
         Opened it;
         it.db << "SAVEPOINT a";
         const bool done = step("statement", [&] {
             silence(it.db);
             it.db << LATE;
         });
         if (!done) step("rollback to", [&] { it.db << "ROLLBACK TO a"; });
         it.commit();
     }},
};

int main(int count, char **arguments) {
    if (count > 1) {
        FLOWS.at(arguments[1])();
        std::cout << "{\"flow\": \"" << arguments[1] << "\", \"steps\": [" << steps << "]}" << std::endl;
        return 0;
    }
    string names;
    for (const auto &flow : FLOWS) names += (names.empty() ? "\"" : ", \"") + flow.first + "\"";
    std::cout << "{\"version\": \"" << SOCI_VERSION / 100000 << "." << SOCI_VERSION / 100 % 1000 << "."
              << SOCI_VERSION % 100 << "\", \"flows\": [" << names << "]}" << std::endl;
}
