//! Who shares a connection, and what happens when it goes away.
