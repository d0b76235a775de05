//! Development tasks of silicast, as a library so that integration tests can call them.
