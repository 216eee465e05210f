//! The stages, by what they are for.

pub(super) mod batch;
pub(super) mod compare;
pub(super) mod decode;
pub(super) mod fault;
pub(super) mod fields;
pub(super) mod flow;
pub(super) mod lookup;
pub(super) mod memory;
pub(super) mod observe;
pub(super) mod protect;
pub(super) mod route;
pub(super) mod schema;
pub(super) mod text;
