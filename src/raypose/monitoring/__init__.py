"""Dashboards and alerts over raypose's metrics, built from one description and committed as files."""
