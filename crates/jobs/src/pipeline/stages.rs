//! The stages, by what they are for.

pub(super) mod decode;
pub(super) mod route;
pub(super) mod text;
