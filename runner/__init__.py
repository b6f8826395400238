"""The program in the image that serves one model over HTTP; it knows nothing of Docker."""
