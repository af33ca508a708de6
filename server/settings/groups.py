"""Which settings belong together: for the help and for the reference. What most servers set comes first."""

from __future__ import annotations

# Each setting once; a test says which is missing.
GROUPS: dict[str, tuple[str, ...]] = {
    "Common settings": (
        "weights",
        "model",
        "variant",
        "host",
        "port",
        "unix_socket",
        "http_port",
        "metrics_port",
        "runtime",
        "max_batch_size",
        "log_level",
        "config",
    ),
    "Model": ("options", "labels", "recipe", "golden"),
    "Several models": ("models", "models_poll", "models_memory_bytes", "model_aliases"),
    "Inference": (
        "novelty",
        "precision",
        "calibration",
        "compute_streams",
        "conversion_seconds",
        "simulated_seconds",
        "stuck_seconds",
    ),
    "Processes": ("workers", "engines", "load_step_seconds"),
    "Limits of the work in flight": (
        "max_images_in_flight",
        "max_bytes_in_flight",
        "max_pixels_in_flight",
        "max_images_per_request",
        "max_message_bytes",
        "max_receiving_bytes",
        "max_uploads",
        "max_streams",
        "stream_window",
    ),
    "Limits of one image": (
        "max_image_bytes",
        "max_image_pixels",
        "max_jpeg_pixels",
        "jpeg_reducing_gap",
        "allow_geometries",
        "allow_classes",
        "deny_classes",
    ),
    "Access control": (
        "tls_certificate",
        "tls_key",
        "tls_client_ca",
        "tokens",
        "admin",
        "feedback",
        "reload_seconds",
        "rate_limit",
        "rate_burst",
        "audit_log",
        "trusted_proxies",
        "http_origins",
    ),
    "Connections": (
        "max_connections",
        "max_connections_per_address",
        "flood_guard",
        "max_calls_per_connection",
        "max_metadata_bytes",
        "upload_seconds",
        "handshake_seconds",
        "keepalive_seconds",
        "keepalive_timeout_seconds",
        "min_ping_seconds",
        "max_connection_idle_seconds",
        "max_connection_age_seconds",
    ),
    "Decoding": ("decode_threads", "decode_in", "decode_memory_bytes", "decode_seconds"),
    "Protocols": ("open_inference",),
    "Health, pages, reflection and metrics": (
        "health_port",
        "serve_health",
        "serve_page",
        "serve_reflection",
        "serve_metrics",
    ),
    "Shutdown": ("drain_announce_seconds", "drain_seconds"),
    "Drift": ("drift", "drift_window_seconds"),
    "Samples and feedback": (
        "samples",
        "samples_reasons",
        "samples_share",
        "samples_margin",
        "samples_per_minute",
        "samples_max_images",
        "samples_max_bytes",
        "samples_max_days",
        "feedback_images",
        "feedback_hours",
    ),
    "Logging": ("log_format", "log_calls"),
}

# Read from the environment alone, by the parts that need them.
VARIABLES: dict[str, str] = {
    "GLIMPSE_CACHE": "Folder for downloaded weights, converted models and comparisons of precisions. Downloaded "
    "weights lie in the folder itself, the others in subfolders. Without it, all are in subfolders of "
    "~/.cache/glimpse, downloaded weights in ~/.cache/glimpse/weights. Only those who run the server should be able "
    "to write to it.",
    "OTEL_*": "OpenTelemetry's own variables: traces are exported if OTEL_EXPORTER_OTLP_ENDPOINT or "
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set.",
}
