//! Layouts shared by the kernel programs and the loader.
#![no_std]
