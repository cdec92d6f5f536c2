"""The user stories, each with real pods and real speech, on any cluster that is marked as one for tests."""
