//! Loads, attaches and pins the redirection programs.
