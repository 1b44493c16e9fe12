"""The api role: everything that is asked over HTTP, versioned under /v1."""
