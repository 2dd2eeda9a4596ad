// libpqxx: cursors, large objects, receivers and subtransactions end with a request of their destructors.
// The command line and the lines that are printed: flow.py.
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include <pqxx/pqxx>

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
    } catch (const pqxx::sql_error &error) {
        note(name, "\"sql_error " + error.sqlstate() + "\"");
    } catch (const pqxx::usage_error &) {
        note(name, "\"usage_error\"");
    } catch (const std::exception &) {
        note(name, "\"exception\"");
    }
    return false;
}

struct Quiet : pqxx::errorhandler {
    explicit Quiet(pqxx::connection_base &db) : errorhandler(db) {}
    bool operator()(const char[]) noexcept override { return false; }
};

void silence(pqxx::transaction_base &transaction) {
    std::cout << "stuck" << std::endl;
    string line;
    std::getline(std::cin, line);
    if (line == "fail") transaction.exec_prepared("fails");
}

void swallowed(pqxx::transaction_base &transaction) {
    try {
        silence(transaction);
    } catch (const std::exception &) {
    }
}

template <typename Transaction> struct Opened {
    pqxx::connection db;
    Quiet quiet{db};
    Transaction work{db};

    Opened() {
        // What was prepared can fail without libpqxx rolling back at once.
        db.prepare("fails", "SELECT 1/0");
        db.prepare("late", LATE);
        work.exec(INSERT);
    }
    void commit() {
        step("commit", [this] { work.commit(); });
    }
};

using Work = Opened<pqxx::work>;

struct News : pqxx::notification_receiver {
    explicit News(pqxx::connection_base &db) : notification_receiver(db, "news") {}
    void operator()(const string &, int) override {}
};

const std::map<string, std::function<void()>> FLOWS = {
    {"A",
     [] {
         Work it;
         swallowed(it.work);
         it.commit();
     }},
    {"A robusttransaction",
     [] {
         Opened<pqxx::robusttransaction<>> it;
         swallowed(it.work);
         it.commit();
     }},
    {"B",
     [] {
         Work it;
         swallowed(it.work);
         step("statement", [&] { it.work.exec(LATE); });
         it.commit();
     }},
    {"B prepared",
     [] {
         Work it;
         swallowed(it.work);
         step("statement", [&] { it.work.exec_prepared("late"); });
         it.commit();
     }},
    {"D cursor destroyed",
     [] {
         Work it;
         auto cursor = std::make_unique<pqxx::icursorstream>(it.work, "SELECT generate_series(1, 10)", "c");
         swallowed(it.work);
         cursor.reset();
         it.commit();
     }},
    {"D stateless cursor destroyed",
     [] {
         Work it;
         auto cursor = std::make_unique<pqxx::stateless_cursor<pqxx::cursor_base::read_only, pqxx::cursor_base::owned>>(
             it.work, "SELECT generate_series(1, 10)", "c", false);
         swallowed(it.work);
         cursor.reset();
         it.commit();
     }},
    {"D large object destroyed",
     [] {
         Work it;
         auto large = std::make_unique<pqxx::largeobjectaccess>(it.work);
         swallowed(it.work);
         large.reset();
         it.commit();
     }},
    {"D receiver destroyed",
     [] {
         Work it;
         auto news = std::make_unique<News>(it.db);
         swallowed(it.work);
         news.reset();
         it.commit();
     }},
    {"S",
     [] {
         Work it;
         {
             pqxx::subtransaction nested(it.work, "a");
             nested.exec("SELECT 1"); // Opens the savepoint: nothing prepared does.
             swallowed(nested);
             step("release", [&] { nested.commit(); });
         }
         it.commit();
     }},
    {"R",
     [] {
         Work it;
         {
             pqxx::subtransaction nested(it.work, "a");
             nested.exec("SELECT 1"); // Opens the savepoint: nothing prepared does.
             step("statement", [&] {
                 silence(nested);
                 nested.exec_prepared("late");
             });
         }
         it.commit();
     }},
    {"R by the program's own exception",
     [] {
         Work it;
         try {
             pqxx::subtransaction nested(it.work, "a");
             nested.exec("SELECT 1"); // Opens the savepoint: nothing prepared does.
             silence(nested);
             throw 1;
         } catch (int) {
         } catch (const std::exception &) {
         }
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
    std::cout << "{\"version\": \"" << PQXX_VERSION << "\", \"flows\": [" << names << "]}" << std::endl;
}
