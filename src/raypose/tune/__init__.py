"""Sweeps: whole training runs as trials, their settings drawn from a space, the poor ones ended early."""
