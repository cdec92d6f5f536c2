"""The dashboards and alerts, evaluated by a real Prometheus."""
