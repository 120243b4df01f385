"""What others watch a split with, made from the configuration that feeds the gates.

expressions.py  PromQL: selectors, windows, and the questions that alerts and dashboards share
alerts.py       what is wrong when, whom it wakes, what it means, what to type
prometheus.py   the alerts as a file of rules, and Alertmanager's routes
dashboards.py   Grafana's dashboards
writing.py      the files; checking.py asks promtool, amtool and Prometheus about them
"""
