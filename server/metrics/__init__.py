"""What Prometheus is told: `metrics.py` has the service's metrics, and `exposition.py` serves them."""
