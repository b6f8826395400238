"""The HTTP API: thin views over the supervisor and the proxy."""
