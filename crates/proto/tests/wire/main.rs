//! The wire, written out literally: what is accepted, what is refused, what is answered.

mod client;
mod deflate;
mod feed;
mod frames;
mod names;
mod server;
mod signing;
