"""The image that serves one model over HTTP; knows nothing of Docker."""
