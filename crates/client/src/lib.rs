//! Asks a node of the own region whether a request may pass.
