"""The ground every other room stands on: configuration, connections, catalogue, ledger, errors."""
