//! From the snapshot to the routes of the services a waypoint stands for, and from a request to its rule. Pure.
