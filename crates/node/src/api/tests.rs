//! Tests of the interface.
