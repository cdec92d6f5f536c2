"""What tests, stories and benchmarks share: real servers, an API server, stand-ins, cases."""
