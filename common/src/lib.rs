//! What Ebb's proxies share.
