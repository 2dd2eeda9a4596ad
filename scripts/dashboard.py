#!/usr/bin/env python3
"""Writes a Grafana dashboard of pgidle's metrics (docs/metrics.md) to stdout; `make dashboard` keeps it in config/dashboard.json.

Grafana 10 and later import it as it is, and ask for nothing but the Prometheus data source.  A test holds that the file is
what this prints, and that it names only series and labels that exist.
"""
import json, sys

#: What a panel counts: the instances that are picked above.
PICKED = 'job=~"$job", instance=~"$instance"'
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def picked(series, labels=""):
    return f"{series}{{{PICKED}{', ' + labels if labels else ''}}}"


def rate(series, by, labels=""):
    return f"sum by ({by}) (rate({picked(series, labels)}[$__rate_interval]))"


def quantile(q, series):
    return f"histogram_quantile({q}, sum by (le) (rate({picked(series + '_bucket')}[$__rate_interval])))"


def target(number, expr, legend, **more):
    return {"datasource": SOURCE, "editorMode": "code", "expr": expr, "legendFormat": legend, "range": True,
            "refId": "ABCDEFGH"[number], **more}


def panel(kind, title, about, unit, targets, size, options, custom=None, thresholds=None):
    steps = [{"color": "green", "value": None}, *({"color": color, "value": value} for value, color in thresholds or [])]
    defaults = {"unit": unit, "min": 0, "color": {"mode": "thresholds" if thresholds else "palette-classic"},
                "thresholds": {"mode": "absolute", "steps": steps}, **({"custom": custom} if custom else {})}
    return {"type": kind, "title": title, "description": about, "datasource": SOURCE, "gridPos": dict(zip("wh", size)),
            "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
            "targets": [target(number, *one) for number, one in enumerate(targets)]}


def stat(title, about, unit, expr, thresholds=()):
    """One figure, as it is now."""
    options = {"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
               "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    return panel("stat", title, about, unit, [(expr, "__auto")], (4, 4), options, thresholds=list(thresholds))


def lines(title, about, unit, targets, stacked=False, width=12):
    """Figures over time."""
    options = {"legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 25 if stacked else 5, "showPoints": "never",
              "stacking": {"group": "A", "mode": "normal" if stacked else "none"}}
    return panel("timeseries", title, about, unit, targets, (width, 8), options, custom)


def rows():
    idle = 'state=~"idle in transaction.*|half-.*|.*batch.*|copy in|client not reading"'
    yield "Now", [
        stat("Sessions", "Connections of clients that have a server connection, or are about to.", "short",
             f"sum({picked('pgidle_sessions')})"),
        stat("Idle in transaction", "Sessions for whose client the server waits in a transaction, in any way.", "short",
             f"sum({picked('pgidle_sessions', idle)}) or vector(0)"),
        stat("Longest idle in transaction", "For how long the server has waited for the client of a transaction.", "s",
             f"max({picked('pgidle_longest_idle_in_transaction_seconds')})", [(15, "orange"), (60, "red")]),
        stat("Oldest transaction", "The age of the oldest transaction, busy or not.", "s",
             f"max({picked('pgidle_oldest_transaction_seconds')})", [(300, "orange"), (900, "red")]),
        stat("Blocked sessions", "Sessions of the server that wait for stuck sessions, as the observer saw last.", "short",
             f"sum({picked('pgidle_blocked_sessions')})", [(1, "red")]),
        stat("Age of xmin", "How many transactions ago the oldest snapshot was taken that a stuck session holds: what vacuum "
             "cannot clean up.", "short", f"max({picked('pgidle_xmin_age')})", [(1_000_000, "orange"), (50_000_000, "red")]),
    ]
    yield "Who is stuck, and who waits", [
        lines("Sessions by state", "`SHOW SESSIONS` in the console has each of them.", "short",
              [(f"sum by (state) ({picked('pgidle_sessions')})", "{{state}}")], stacked=True),
        lines("Idle in transaction, by application", "The ten with the most sessions that are idle in a transaction.", "short",
              [(f"topk(10, sum by (database, user, application_name) ({picked('pgidle_sessions', idle)}))",
                "{{application_name}} ({{user}}, {{database}})")]),
        lines("The longest", "What has been open or idle for longest, at each moment.", "s",
              [(f"max({picked('pgidle_longest_idle_in_transaction_seconds')})", "idle in transaction"),
               (f"max({picked('pgidle_oldest_transaction_seconds')})", "transaction")]),
        lines("Others that wait", "Seconds in which others wait because of stuck sessions, for each second, and how many they "
              "are. Needs the observer.", "short",
              [(f"sum(rate({picked('pgidle_blocked_seconds_total')}[$__rate_interval]))", "seconds of waiting per second"),
               (f"sum({picked('pgidle_blocked_sessions')})", "sessions that wait")]),
    ]
    yield "What pgidle did", [
        lines("Incidents", "Limits that were reached, and commands from the console: what was to be done, and what came of it.",
              "cps", [(rate("pgidle_incidents_total", "action, outcome"), "{{action}}: {{outcome}}")], stacked=True),
        lines("Incidents by rule and kind", "Which limits are reached.", "cps",
              [(rate("pgidle_incidents_total", "rule, kind"), "{{rule}}: {{kind}}")], stacked=True),
        lines("Releases refused", "Why transactions could not be released; docs/release.md explains each.", "cps",
              [(rate("pgidle_release_refused_total", "reason"), "{{reason}}")]),
        lines("Transaction blocks that ended", "By how; `enforced` is what pgidle ended.", "cps",
              [(rate("pgidle_transactions_total", "outcome"), "{{outcome}}")], stacked=True),
    ]
    yield "How long transactions take", [
        lines("Duration of transaction blocks", "From the request that opened them to their end.", "s",
              [(quantile(q, "pgidle_transaction_seconds"), name) for q, name in QUANTILES]),
        lines("The longest wait for the client in each", "What limits of the kind `idle` are about: pick them above what is "
              "usual.", "s", [(quantile(q, "pgidle_idle_in_transaction_seconds"), name) for q, name in QUANTILES]),
    ]
    yield "Sessions, servers and pgidle itself", [
        lines("Sessions opened and closed", "By why they closed.", "cps",
              [(f"sum(rate({picked('pgidle_sessions_opened_total')}[$__rate_interval]))", "opened"),
               (rate("pgidle_sessions_closed_total", "reason"), "closed: {{reason}}")], width=8),
        lines("Bytes", "What was read to be passed on, without TLS.", "Bps",
              [(rate("pgidle_bytes_total", "direction"), "{{direction}}")], width=8),
        lines("Errors of connections", "Attempts to connect to servers that failed, connections to them that were lost, and accepts that failed.", "cps",
              [(rate("pgidle_upstream_errors_total", "reason"), "{{reason}}"),
               (f"sum(rate({picked('pgidle_accept_errors_total')}[$__rate_interval]))", "accepts")], width=8),
        lines("What is missing", "Lines that the audit lost, and label sets that were taken together as `other`.", "short",
              [(f"sum(increase({picked('pgidle_audit_dropped_total')}[$__rate_interval]))", "audit lines lost"),
               (f"sum by (series) (increase({picked('pgidle_label_sets_other_total')}[$__rate_interval]))",
                "label sets as other: {{series}}")], width=8),
        lines("Observer", "1 where its last look at the server succeeded, 0 where it is blind.", "bool_on_off",
              [(f"min by (instance) ({picked('pgidle_observer_up')})", "{{instance}}")], width=8),
        lines("Versions", "How many instances of each version there are.", "short",
              [(f"sum by (version) ({picked('pgidle_build_info')})", "{{version}}")], width=8),
    ]


QUANTILES = [(0.5, "half of them"), (0.95, "95 %"), (0.99, "99 %")]


def placed():
    """The panels, each row under the one before."""
    panels, y = [], 0
    for title, row in rows():
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
                       "panels": []})
        x, y = 0, y + 1
        for one in row:
            size = one["gridPos"]
            if x + size["w"] > WIDTH:
                x, y = 0, y + size["h"]
            one["gridPos"] = {"x": x, "y": y, **size}
            panels.append(one)
            x += size["w"]
        y += row[-1]["gridPos"]["h"]
    return [{"id": number, **one} for number, one in enumerate(panels, 1)]


def variable(name, label, query):
    return {"type": "query", "name": name, "label": label, "datasource": SOURCE, "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
            "allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": []}


def dashboard():
    source = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1,
              "multi": False, "includeAll": False, "current": {}, "options": []}
    alerts = {"name": "Alerts of pgidle", "datasource": SOURCE, "enable": True, "iconColor": "red",
              "expr": 'ALERTS{alertname=~"Pgidle.*", alertstate="firing"}', "titleFormat": "{{alertname}}",
              "textFormat": "{{instance}}", "step": "30s"}
    return {
        "title": "pgidle", "uid": "pgidle", "description": "Transactions that are stuck, what pgidle does about them, and what "
        "they cost.", "tags": ["postgresql", "pgidle"], "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1,
        "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "links": [],
        "annotations": {"list": [alerts]},
        "templating": {"list": [source, variable("job", "Job", "label_values(pgidle_build_info, job)"),
                                variable("instance", "Instance",
                                         'label_values(pgidle_build_info{job=~"$job"}, instance)')]},
        "panels": placed(),
    }


json.dump(dashboard(), sys.stdout, indent=1, ensure_ascii=False)
print()
