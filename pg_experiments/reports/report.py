"""Stub."""


def report(sweep_dir):
    print("report", sweep_dir)
