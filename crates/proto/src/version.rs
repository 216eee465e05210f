//! The `protocol` that a client names in its query.
//!
//! Java and .NET say 5, JavaScript and Swift 7; 4 to 7 are treated alike, so that the number matters only for
//! refusing.

use crate::close::CloseCode;

/// The version spoken here.
const NEWEST: u8 = 7;
/// The oldest whose messages ours still look like.
const OLDEST: u8 = 4;

/// The version to speak with a client: none named, or a later one than ours, reads as 7.
pub fn protocol(value: Option<&str>) -> Result<u8, CloseCode> {
    let Some(text) = value else { return Ok(NEWEST) };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CloseCode::BAD_VERSION);
    }
    // A number too large for the type is a later version all the same.
    let version = text.parse().unwrap_or(NEWEST);
    if version < OLDEST { Err(CloseCode::OLD_PROTOCOL) } else { Ok(version.min(NEWEST)) }
}
