"""What operators see of the gateway: metrics, traces and logs. None of them ever holds what users wrote."""
