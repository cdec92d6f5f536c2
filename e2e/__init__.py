"""End-to-end tests: user stories with real pods and real speech, on any cluster that is marked as one for tests."""
