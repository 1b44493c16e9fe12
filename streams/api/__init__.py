"""The api role: everything that is asked over HTTP, versioned under /v1."""

PREFIX = "/v1"  # of every route but those of probes, of metrics and of the page
