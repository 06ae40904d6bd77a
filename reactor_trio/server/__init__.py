"""The server: listeners, HTTP, the WebSocket seam, admission, drain."""
