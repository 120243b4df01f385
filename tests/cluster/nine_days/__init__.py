"""The nine days of a rollout in minutes, on the cluster, and what may happen in them.

`ground` is the split: pods, customers, Prometheus over the pods, Alertmanager, a receiver. Each
test begins with everybody at 0 % and ends likewise; its docstring says how the trouble has to end.
"""
