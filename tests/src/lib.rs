//! Tests that cross processes, and the rules of the repository itself.
