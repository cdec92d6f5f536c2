"""Evaluates the dashboards and alerts in a real Prometheus."""
