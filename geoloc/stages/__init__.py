"""The stages on Ray: each reads URIs and writes a URI."""
